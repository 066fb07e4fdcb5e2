"""The fine-tuning job of the monitoring guide: LoRA training of a language model that explains trading decisions."""
