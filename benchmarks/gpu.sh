#!/usr/bin/env bash
# Everything that needs a GPU, in one go: builds in place, tests, checks the memory, times. Logs go to $OUT (gpu-output).
#
#   bash benchmarks/gpu.sh                  # all the steps
#   bash benchmarks/gpu.sh build test       # some of: build test memcheck large time families overhead crossovers models
#   PYTHON=python3.12 SECONDS_TO_TIME=300 bash benchmarks/gpu.sh time
#   TESTS="tests/functional/test_fused.py tests/functional/test_gated.py" bash benchmarks/gpu.sh test
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-gpu-output}
export PYTHONPATH=. PYTHONUNBUFFERED=1
mkdir -p "$OUT"
failed=0

step() {  # name, command...
  local name=$1 started=$SECONDS status
  shift
  timeout "${STEP_LIMIT:-600}" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  if [[ $status = 0 || ($name = test_* && $status = 5) ]]; then  # 5: every test of the file was skipped
    echo "$name: passed in $((SECONDS - started)) s: $(tail -n 1 "$OUT/$name.log")"
  else
    echo "$name: FAILED ($status) in $((SECONDS - started)) s:"
    tail -n 25 "$OUT/$name.log"
    failed=1
  fi
}

# Processes side by side: a GPU serves many, and a crash loses one file's results only. As many as fit into 128 GiB. The
# files that compile most come first, in four parts each. Several GPUs take turns, except with tests that want them all.
test_step() {
  local file name shard shards started=0 first=() rest=() gpus
  local slow='(numbers|triton|autograd|families|gated|normalization|of_sums|plans|contributing|networks)[.]py$'
  gpus=${CUDA_VISIBLE_DEVICES:-$("$PYTHON" -c "import torch; print(*range(torch.cuda.device_count()), sep=',')")}
  IFS=, read -ra gpus <<<"$gpus"
  if ((${#gpus[@]} == 0)); then
    echo "test: no GPU that torch knows"
    failed=1
    return
  fi
  for file in ${TESTS:-tests/*/test_*.py}; do
    if [[ $file =~ $slow ]]; then first+=("$file"); else rest+=("$file"); fi
  done
  export OMP_NUM_THREADS=1
  for file in "${first[@]}" "${rest[@]}"; do
    if [[ $file =~ $slow ]]; then shards=4; else shards=1; fi
    for shard in $(seq $shards); do
      while (($(jobs -rp | wc -l) >= ${JOBS:-64})); do wait -n; done
      name=$(basename "$file" .py)_$shard
      (
        [[ $file == *distributed* ]] || export CUDA_VISIBLE_DEVICES=${gpus[started % ${#gpus[@]}]}
        step "$name" "$PYTHON" -m pytest -q -p no:cacheprovider "$file" --shard "$shard/$shards" >"$OUT/$name.result"
      ) &
      started=$((started + 1))
    done
  done
  wait
  unset OMP_NUM_THREADS
  cat "$OUT"/test_*.result
  ! grep -q FAILED "$OUT"/test_*.result || failed=1
  cat "$OUT"/test_*.log >"$OUT/test.log"
  rm "$OUT"/test_*
}

# Kernels are compiled side by side first, so that the timed pass finds them in the caches.
families_step() {
  local file
  for file in benchmarks/cases/[a-z]*.py; do
    timeout 120 "$PYTHON" benchmarks/families.py --compile --family "$(basename "$file" .py)" >/dev/null 2>&1 &
  done
  wait
  step families "$PYTHON" benchmarks/families.py --compile --out "$OUT/families.json"
  cat "$OUT/families.log"
}

for name in ${*:-build test memcheck large time families overhead crossovers models}; do
  case $name in
    build) step build "$PYTHON" setup.py build_ext --inplace ;;
    test) test_step ;;
    memcheck) step memcheck compute-sanitizer "$PYTHON" benchmarks/gpu.py --memcheck ;;
    large) step large "$PYTHON" benchmarks/gpu.py --large ;;
    time)
      step time "$PYTHON" benchmarks/gpu.py --compile --seconds "${SECONDS_TO_TIME:-540}" --out "$OUT/gpu.json"
      cat "$OUT/time.log"
      ;;
    families) families_step ;;
    overhead)
      step overhead "$PYTHON" benchmarks/overhead.py && cat "$OUT/overhead.log"
      step forms "$PYTHON" benchmarks/overhead.py --forms && cat "$OUT/forms.log"
      step batch_norm "$PYTHON" benchmarks/batch_norm_step.py && cat "$OUT/batch_norm.log"
      ;;
    crossovers) step crossovers "$PYTHON" benchmarks/crossovers.py --dry-run && cat "$OUT/crossovers.log" ;;
    models)
      step models "$PYTHON" benchmarks/models.py --out "$OUT/models.json"
      cat "$OUT/models.log"
      ;;
    *) echo "unknown step $name" && exit 2 ;;
  esac
done
exit $failed
