"""The embedded base model: a tiny Llama, its tokenizer, and the script that made them (`pretrain.py`)."""
