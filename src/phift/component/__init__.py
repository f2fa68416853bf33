"""What the fine-tuning component takes and does, each thing once: for the check, the counting of tokens and the engine.

- `inputs`: what each input takes, and how it is written on the wire.
- `settings`: what is trained with, typed, and what settings must be like together.
- `finetune_config`: what a model's own file says of its fine-tuning.
- `preprocessing`: what becomes of a row, and which of its tokens are trained on.
"""
