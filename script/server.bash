# Sourced by scripts that need a server of their own: start_server DIRECTORY [FLAG…] sets
# TASUKI_SERVER (exported), METRICS and SERVER_PID; stop_server ends it and fails if it did not end
# well. `field NAME FILE` reads a string field of a JSON document that has it once.

field() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" "$2" | head -n 1; }

start_server() {
  local directory=$1; shift
  mkdir -p "$directory"
  rm -f "$directory/ready.json"
  tasukid --data_dir="$directory/data" --listen=127.0.0.1:0 --metrics_listen=127.0.0.1:0 \
    --ready_file="$directory/ready.json" "$@" 2>>"$directory/server.log" &
  SERVER_PID=$!
  SERVER_DIRECTORY=$directory
  local _
  for _ in $(seq 300); do
    if [ -s "$directory/ready.json" ]; then
      TASUKI_SERVER=$(field listen "$directory/ready.json"); export TASUKI_SERVER
      METRICS=$(field metrics_listen "$directory/ready.json")
      return 0
    fi
    kill -0 "$SERVER_PID" 2>/dev/null || break
    sleep 0.1
  done
  echo "the server did not start; its last lines:" >&2
  tail -n 20 "$directory/server.log" >&2
  return 1
}

stop_server() {
  [ -n "${SERVER_PID:-}" ] || return 0
  local pid=$SERVER_PID; SERVER_PID=
  kill -TERM "$pid" 2>/dev/null || { echo "the server had ended; see $SERVER_DIRECTORY/server.log" >&2; return 1; }
  wait "$pid"
}

# scrape FILE: the metrics page (a bare Debian has no curl).
scrape() {
  exec 3<>"/dev/tcp/${METRICS%:*}/${METRICS##*:}"
  printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
  sed '1,/^\r*$/d' <&3 >"$1"
  exec 3<&-
}

# upload VARIABLE FILE FLAG…: uploads a dataset and exports its name as VARIABLE, for job files.
upload() {
  local variable=$1 file=$2 answer; shift 2
  answer=$(mktemp)
  tasuki --output json dataset upload "$file" --name "$(basename "${file%.*}")" "$@" >"$answer" || { rm -f "$answer"; return 1; }
  export "$variable=$(field name "$answer")"
  rm -f "$answer"
}
