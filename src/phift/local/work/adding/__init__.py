"""A model of the user's becomes one of the local registry: ``python -m phift.local.work.adding``.

What is taken is a folder as transformers saves it, with safetensors; a GGUF file; or a model on the Hugging Face Hub.
Nothing that comes with it is executed: no pickle is opened, no code of its own is imported. Its tokenizer and its chat
template are used, which may take for ever or all memory, as may reading the rest: so it is done in this process, which
is limited in memory, and which its parent ends where one part takes too long.
"""
