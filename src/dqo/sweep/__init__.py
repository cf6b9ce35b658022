"""Many runs as one experiment: arms × alphas × seeds, each in a process of its own, and what they show together.

`plan` says what there is to do, `schedule` does it, `results` says what came out. Nothing here trains or
samples: the stages of a run are commands, so a crash stops that run only.
"""
