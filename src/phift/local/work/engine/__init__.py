"""The training engine of the local workspace: the steps of Azure's chat-completion component.

    python -m phift.local.work.engine JOB_JSON

What it does as the component does:

- The same five steps with the same inputs: validate, import the model, preprocess, fine-tune, convert to MLflow.
- Literals arrive as text and mean what the component's specification says; a value it refuses is refused here.
- Rows are taken, dropped, cut and masked as `phift.component.preprocessing` has it; one that the chat template refuses
  fails the job, as do fewer than ten training rows.
- A split that has no file is cut from the training file by position, and with fewer than three files a part of the
  training rows goes there.
- Metrics have the names of transformers' ``Trainer`` and go to the fine-tuning run and to the job's run.
- Every evaluation leaves a checkpoint, and the weights with the lowest ``eval_loss`` win.
- ``resume_from_checkpoint`` goes on from the checkpoints of this step, not of another job. Without it a step that was
  interrupted starts again, and logs its metrics again; steps that were completed are never run twice.

What differs:

- One evaluation before the first step, logged as ``eval_loss`` at step 0, so that the gain can be seen.
- It trains on the GPUs of this machine, as many as ``number_of_gpu_to_use_finetuning`` says and are there, else on its
  CPU. ``precision`` 16 is bf16, fp16 on a GPU without it, with weights in 32 bits; on a CPU for models of 20 million
  parameters and more, where it has AVX512_BF16 or AMX. The log says what was used. On a GPU it has not been run yet.
- DeepSpeed, ONNX Runtime, flash attention and the sizes of machines have no meaning, and the log says so once.
- LoRA adapters are always merged into the weights; LoRA without ``lora_target_modules`` adapts every linear layer.
- With two turns of one role in a row the markers are matched by position; Azure's code pairs them by count.
- Only ``mlflow_model_path`` gives a model and only files give data: no MLTable, no Hugging Face id, no PyTorch folder.
- Code that comes with a model is never run, so ``trust_remote_code`` has no effect.
- CSV and TSV pass validation, as on Azure, and fail in preprocessing, since a cell cannot hold a list.
- ``metric_for_best_model`` other than ``loss`` is refused at once; on Azure it fails at the end.
- ``__azureml_ft_training_tokens`` counts the tokens of the training rows once, not once an epoch.
"""
