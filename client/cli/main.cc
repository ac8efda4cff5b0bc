#include "client/cli/interrupts.h"
#include "client/cli/run.h"

int main(int argc, char** argv) {
  const tasuki::cli::Interrupts interrupts;
  return tasuki::cli::Run(argc, argv, interrupts.token());
}
