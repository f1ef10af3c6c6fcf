#!/usr/bin/env bash
# A cluster of two machines on this one, and a walk through it as people go: from Prefect's page, videos become a dataset, a
# stage is trained and the model goes into service; by commands, the stage before is trained and a video asked for. The
# machines have networks of their own where the system lets us (unshare); else both are the loopback. Nothing reaches beyond
# them, everybody needs a token, and at the end only what was started here is ended.
#
#     infra/two-machines.sh [DIR]     DIR: where everything is left to look at, build/two-machines by default
# With EMO_TOGETHER=1 both machines are the loopback in any case.
set -euo pipefail
unset RAY_TMPDIR # what is there is another Ray's
here=$(cd "$(dirname "$0")/.." && pwd)
test -d "$here/.venv/bin" && export PATH="$here/.venv/bin:$PATH"
command -v emo ray prefect serve >/dev/null || { echo "error: no emo on PATH: make setup" >&2; exit 2; }

own_world=(unshare --map-root-user --net --pid --mount --fork --kill-child --mount-proc)
if test -z "${EMO_TWO_MACHINES:-}"; then
    EMO_TWO_MACHINES=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n') # in the environment of all that is started
    export EMO_TWO_MACHINES
    if test -z "${EMO_TOGETHER:-}" && "${own_world[@]}" sh -c 'ip link set lo up && mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray' 2>/dev/null; then
        exec "${own_world[@]}" "$0" "${1:-build/two-machines}" apart
    fi
fi

dir=${1:-build/two-machines}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
mode=${2:-together}
cd "$dir"
rm -rf data run1 run2 jobs service videos logs prefect
mkdir -p logs

say() { echo "two machines, ${SECONDS} s: $*"; }

end() {
    code=$?
    trap - EXIT INT TERM
    test "$code" = 0 || { say "failed; the end of the logs:"; tail -n 15 logs/*.txt; } >&2
    for signal in TERM KILL; do
        family=$(grep -lzx "EMO_TWO_MACHINES=$EMO_TWO_MACHINES" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | grep -vx "$$" || true)
        for process in $family; do kill -s "$signal" "$process" 2>/dev/null || true; done
        test "$signal" = KILL || sleep 2
    done
    test -z "${RAY_TMPDIR:-}" || rm -rf "$RAY_TMPDIR"
    exit "$code"
}
trap end EXIT
trap 'exit 130' INT TERM

# until SECONDS WHAT COMMAND…: try it again until it succeeds.
until_it() {
    local last=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        test $SECONDS -lt "$last" || { say "$what: not within its time" >&2; return 1; }
        sleep 0.5
    done
}

# ask URL [TOKEN]: the status that is answered, and then the answer.
ask() {
    python - "$@" <<'P'
import sys, urllib.error, urllib.request
head = {"Authorization": f"Bearer {sys.argv[2]}"} if sys.argv[2:] else {}
try:
    answer = urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=head), timeout=5)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode(errors="replace"))
P
}
status() { ask "$@" | head -n 1 | cut -d' ' -f1; }
answers() { test "$(status "$@")" = 200; }

# flow NAME <FORM: have the flow run on the cluster, as the button of its page does, and follow it to its end.
flow() {
    python -c '
import base64, json, os, sys, time, urllib.error, urllib.request
key = base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
def api(path, **sent):
    head = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
    asked = urllib.request.Request(os.environ["PREFECT_API_URL"] + path, json.dumps(sent).encode() if sent else None, head)
    end = time.monotonic() + 300
    while True:
        try:
            return json.load(urllib.request.urlopen(asked, timeout=60))
        except urllib.error.HTTPError as error: # 404: the flow is not registered yet; 503: the database is busy
            if error.code not in (404, 503) or time.monotonic() > end: raise
        time.sleep(0.5)
name, page, notes = sys.argv[1:]
form = {"what": json.load(sys.stdin), "where": {"cluster": page, "notes": notes}}
deployment = api(f"/deployments/name/{name}/emo")["id"]
run = api(f"/deployments/{deployment}/create_flow_run", parameters=form, state={"type": "SCHEDULED"})["id"]
while (state := api(f"/flow_runs/{run}")["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
    time.sleep(0.5)
if state["type"] != "COMPLETED":
    kind, message = state["type"], state["message"]
    sys.exit(f"error: the flow {name} ended as {kind}: {message}")
' "$1" "$page" "$dir/jobs"
}

umask 077
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
RAY_AUTH_TOKEN=$(random)
EMO_TOKEN=$(random)
PREFECT_API_AUTH_STRING=emo:$(random)
PREFECT_SERVER_API_AUTH_STRING=$PREFECT_API_AUTH_STRING
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN EMO_TOKEN PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING
export RAY_JOB_STOP_WAIT_TIME_S=10 RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_IMPORT_WARNING=1
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive RAY_worker_niceness=0
export PREFECT_HOME=$dir/prefect
export PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
unset RAY_ADDRESS RAY_AUTH_TOKEN_PATH

gcs=6379 page=8265 prefect=4200 service=8000
if test -d films; then true; else emo sample films --clips 2 --seconds 2 --looks 2; fi &
films=$!
ray_start() { ray start --object-store-memory=100000000 --dashboard-agent-listen-port=0 "$@"; }
if test "$mode" = apart; then
    head=10.77.0.1 worker=10.77.0.2
    ip link set lo up
    mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray
    mkfifo go
    # shellcheck disable=SC2016 # expanded there
    unshare --net --mount bash -c 'mount -t tmpfs none /tmp/ray && ip link set lo up && read -r _ <go && rm go && exec "$@"' \
        worker ray start "--address=$head:$gcs" "--node-ip-address=$worker" --num-cpus=2 --object-store-memory=100000000 \
        >logs/worker.txt 2>&1 &
    second=$!
    until_it 10 "the second machine" sh -c "test \$(readlink /proc/$second/ns/net) != \$(readlink /proc/self/ns/net)"
    ip link add emo0 type veth peer name emo1 netns "$second"
    ip addr add "$head/24" dev emo0 && ip link set emo0 up
    nsenter --target "$second" --net sh -c "ip addr add $worker/24 dev emo1 && ip link set emo1 up"
else
    head=127.0.0.1 worker=127.0.0.1
    free() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
    gcs=$(free) page=$(free) prefect=$(free) service=$(free) # others may have the usual ones
    RAY_TMPDIR=$(mktemp -d) # and `auto` must lead nobody else to this cluster
    export RAY_TMPDIR
fi
page=http://127.0.0.1:$page
export PREFECT_API_URL=http://127.0.0.1:$prefect/api
prefect server start --host 127.0.0.1 --port "$prefect" >logs/prefect.txt 2>&1 &
disown # that it is ended is nothing to be told
# The head computes nothing, so that everything has to come about on the other machine. Without --block: of a head that
# blocks all of Ray ends when one of its processes does, such as the server for clients that nobody here needs.
ray_start --head "--node-ip-address=$head" "--port=$gcs" --num-cpus=0 --dashboard-host=127.0.0.1 \
    "--dashboard-port=${page##*:}" >logs/head.txt 2>&1
until_it 300 "the head" answers "$page/api/version" "$RAY_AUTH_TOKEN"
if test "$mode" = apart; then
    echo go >go
else
    ray_start "--address=$head:$gcs" --num-cpus=2 >logs/worker.txt 2>&1
fi
two_nodes() {
    test "$(ask "$page"/api/v0/nodes "$RAY_AUTH_TOKEN" | grep -o '"state": *"ALIVE"' | wc -l)" = 2
}
until_it 300 "the Prefect server" answers "$PREFECT_API_URL/health"
emo flows serve >logs/flows.txt 2>&1 &
disown
until_it 300 "the worker" two_nodes
say "a head at $head and a worker at $worker, $mode"

test "$(status "$page"/api/jobs/)" = 401 || { say "the head answers without a token" >&2; exit 1; }
test "$(status "$page"/api/jobs/ wrong)" = 403 || { say "the head takes a wrong token" >&2; exit 1; }
test "$(status "$PREFECT_API_URL"/admin/version)" = 401 || { say "Prefect answers without a password" >&2; exit 1; }
say "nobody is answered without the token"

wait "$films"
prefect automation create --from-file "$here/infra/prefect/zombies.yaml" &&
    prefect work-pool create emo --type kubernetes --base-job-template "$here/infra/prefect/pool.json" &
pool=$!
# Forms take whole paths, because jobs start elsewhere; commands make them whole.
flow ingest <<F
{"sources": ["$dir/films/clips"], "out": "$dir/data", "size": 80, "audio_model": "tiny", "test_share": 0, "workers": 1}
F
say "a dataset: $(ls data/commits | wc -l) commits"
emo train --stage 1 --data data --out run1 --steps 2 --workers 1 --device cpu --address "$head:$gcs"
flow train <<F
{"stage": 2, "data": "$dir/data", "out": "$dir/run2", "init": "$dir/run1/model", "steps": 2, "workers": 1, "device": "cpu"}
F
say "a model: run2/model"

endpoint=http://127.0.0.1:$service
flow serve <<F
{"model": "$dir/run2/model", "folder": "$dir/service", "port": $service, "endpoint": "$endpoint", "most_makers": 1}
F
say "a service"
voices=(films/clips/*) # two seconds of sound lie in every film
printf 'name,portrait,audio,steps,guidance\nhello,films/held_out/portrait.png,%s,1,1\n' "${voices[0]}" >videos.csv
emo batch --endpoint "$endpoint" --manifest videos.csv --out videos
say "a video: $dir/videos/hello.mp4"

wait "$pool"
say "done"
