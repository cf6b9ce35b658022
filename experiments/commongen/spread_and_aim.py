"""How much of the distance to people's sentences is spread, and how much is aim.

Run `python experiments/commongen/spread_and_aim.py RUN/eval-test ...` on folders with a `groups.jsonl` that has
references. With unit embeddings, a prompt's mean cosine between responses and references is exactly |e| · |r| · cos(e,
r), e the mean of its responses and r of its references. |e| falls with every bit of spread, whatever is said. The
cosine of the two means is the aim, which spread leaves alone.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from tqdm import tqdm

from dqo.embedders import Embedder, load_embedder
from dqo.evaluation.statistics import bootstrap_intervals
from dqo.files.records import Group, read_groups

ENCODER = "paraphrase-MiniLM-L3-v2"  # the one no arm was trained on


def three_numbers(group: Group, encoder: Embedder) -> Tensor:
    """(3,) mean cosine to the references, length of the mean response, cosine of the mean response and reference."""
    responses = normalize(encoder([text or " " for text in group.responses]), dim=1)  # (G, D)
    references = normalize(encoder(list(group.reference)), dim=1)  # (references, D)
    centre, target = responses.mean(0), references.mean(0)  # (D,) each
    return torch.stack([centre @ target, centre.norm(), cosine_similarity(centre, target, dim=0)])


def main(folders: list[str]) -> None:
    """Print a row in Markdown for every folder.

    Args:
        folders: Evaluation folders.
    """
    encoder = load_embedder(ENCODER)
    print("| run | mean cosine to the references | length of the mean response | cosine of the means |")
    print("|---|---|---|---|")
    for folder in folders:
        groups = read_groups(Path(folder) / "groups.jsonl")
        rows = torch.stack([three_numbers(group, encoder) for group in tqdm(groups, leave=False)])  # (P, 3)
        cells = [f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in bootstrap_intervals(rows.T.tolist())]
        print(f"| {Path(folder).parent.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
