"""Fine-tune a model, deploy it, ask it something, and clean up.

    phift samples examples/elements
    phift local up
    python examples/quickstart.py examples/finetune_local.yaml

With `examples/finetune_azure.yaml` the same script runs on Azure. Killed and started again, it goes on with its job.
"""

import sys

from phift import FineTuneRun, RunConfig

QUESTION = "How do chemists write iron?"  # in these words not among the training rows


def main(config_file: str) -> None:
    run = FineTuneRun(RunConfig.from_yaml(config_file), on_event=print)
    print(run.check())

    job = run.submit()  # finds the job if the same one is already there
    print(f"{job.name}: {'going on' if job.existed else 'submitted'}")
    run.wait()

    losses = run.metrics().query("metric == 'eval_loss'").sort_values("step")["value"]
    print(f"validation loss from {losses.iloc[0]:.3f} to {losses.iloc[-1]:.3f}")

    model = run.register()
    print(f"registered {model.name} version {model.version}")
    with run.deploy() as endpoint:  # deleted at the end of the block
        print(f"{QUESTION}\n  {endpoint.chat(QUESTION)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "examples/finetune_local.yaml")
