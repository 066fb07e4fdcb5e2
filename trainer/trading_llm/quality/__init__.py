"""Quality of generated explanations: texts are generated during the training and scored, deterministically.

`indicators.py` reads figures out of a prompt, `claims.py` what a text says of them, `scoring.py` makes the scores;
`generation.py` and `stages.py` do it in a running Trainer. docs/text-quality.md says what each score means.
"""
