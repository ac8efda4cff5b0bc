// Tells ThreadSanitizer what Debian's abseil does, which is built without it: that a Mutex orders
// those who lock it, and a Notification those who wait for it. Linked into the tests of preset tsan
// by --wrap (CMakeLists.txt), which leads our calls of abseil here.
//
// What abseil does between "pre" and "post" is not looked at; so a condition may read what its
// mutex guards on whichever thread abseil evaluates it.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

#define WRAPPED(result, name, ...)              \
  extern "C" result __real_##name(__VA_ARGS__); \
  extern "C" result __wrap_##name(__VA_ARGS__); \
  extern "C" result __wrap_##name(__VA_ARGS__)

namespace {

// Waiting unlocks and locks again.
struct Waiting {
  explicit Waiting(absl::Mutex* mutex) : mutex(mutex) {
    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
    __tsan_mutex_pre_lock(mutex, 0);
  }
  ~Waiting() { __tsan_mutex_post_lock(mutex, 0, 0); }
  absl::Mutex* mutex;
};

}  // namespace

WRAPPED(void, _ZN4absl7debian35Mutex4LockEv, absl::Mutex* mutex) {
  __tsan_mutex_pre_lock(mutex, 0);
  __real__ZN4absl7debian35Mutex4LockEv(mutex);
  __tsan_mutex_post_lock(mutex, 0, 0);
}

WRAPPED(void, _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE, absl::Mutex* mutex,
        const absl::Condition& condition) {
  __tsan_mutex_pre_lock(mutex, 0);
  __real__ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE(mutex, condition);
  __tsan_mutex_post_lock(mutex, 0, 0);
}

WRAPPED(void, _ZN4absl7debian35Mutex6UnlockEv, absl::Mutex* mutex) {
  __tsan_mutex_pre_unlock(mutex, 0);
  __real__ZN4absl7debian35Mutex6UnlockEv(mutex);
  __tsan_mutex_post_unlock(mutex, 0);
}

WRAPPED(void, _ZN4absl7debian35MutexD1Ev, absl::Mutex* mutex) {
  __real__ZN4absl7debian35MutexD1Ev(mutex);
  __tsan_mutex_destroy(mutex, 0);
}

WRAPPED(void, _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE, absl::Mutex* mutex,
        const absl::Condition& condition) {
  const Waiting waiting(mutex);
  __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(mutex, condition);
}

WRAPPED(bool, _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE,
        absl::Mutex* mutex, const absl::Condition& condition, absl::Duration timeout) {
  const Waiting waiting(mutex);
  return __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
      mutex, condition, timeout);
}

WRAPPED(bool, _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE,
        absl::Mutex* mutex, const absl::Condition& condition, absl::Time deadline) {
  const Waiting waiting(mutex);
  return __real__ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE(
      mutex, condition, deadline);
}

WRAPPED(void, _ZN4absl7debian312Notification6NotifyEv, absl::Notification* notification) {
  __tsan_release(notification);
  __real__ZN4absl7debian312Notification6NotifyEv(notification);
}

WRAPPED(void, _ZNK4absl7debian312Notification19WaitForNotificationEv,
        const absl::Notification* notification) {
  __real__ZNK4absl7debian312Notification19WaitForNotificationEv(notification);
  __tsan_acquire(const_cast<absl::Notification*>(notification));
}

WRAPPED(bool, _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
        const absl::Notification* notification, absl::Duration timeout) {
  const bool notified =
      __real__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
          notification, timeout);
  if (notified) __tsan_acquire(const_cast<absl::Notification*>(notification));
  return notified;
}
