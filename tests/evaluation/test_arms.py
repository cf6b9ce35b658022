"""Which runs are seeds of one arm."""

import yaml

from dqo.evaluation.arms import find_arms


def arms(folders, documents=None):
    names = [folder.name for folder in folders]
    found = find_arms(folders, names, documents or [{}] * len(folders), [{}] * len(folders))
    return {arm.name: [names[place] for place in arm.places] for arm in found}


def run(folder, evaluation="", **settings):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"output_dir": str(folder), **settings}))
    (folder / evaluation).mkdir(exist_ok=True)
    return folder / evaluation


def test_by_the_names_of_a_sweep(tmp_path):
    names = ["base", "dqo-alpha1-seed0", "dqo-alpha1-seed1", "dqo-alpha0.5-seed0", "seed3_mine", "SEED 4_mine", "s1"]
    assert arms([tmp_path / name for name in names]) == {
        "base": ["base"], "dqo-alpha1": names[1:3], "dqo-alpha0.5-seed0": ["dqo-alpha0.5-seed0"], "_mine": names[4:6],
        "s1": ["s1"],
    }  # fmt: skip


def test_by_settings_that_differ_in_the_seed_alone(tmp_path):
    """Names say nothing here: what was trained decides, and two alphas are two arms under one name."""
    folders = [run(tmp_path / name, seed=seed, alpha=alpha) for name, seed, alpha in
               [("first", 0, 1.0), ("second", 1, 1.0), ("x-seed0", 0, 2.0), ("x-seed1", 1, 3.0)]]  # fmt: skip
    assert arms(folders) == {
        "first and 1 more": ["first", "second"], "x-seed0": ["x-seed0"], "x-seed1": ["x-seed1"]
    }  # fmt: skip


def test_one_seed_twice_is_no_arm_and_neither_are_two_checkpoints(tmp_path):
    again = [run(tmp_path / name, seed=0) for name in "ab"]
    other = [run(tmp_path / "c", f"eval-{step}", seed=1) for step in (20, 40)]
    assert list(map(len, arms([*again, *other]).values())) == [1, 1, 1, 1]


def test_responses_drawn_in_another_way_are_another_arm(tmp_path):
    folders = [tmp_path / f"a-seed{seed}" for seed in range(3)] + [tmp_path / "b"]
    hot = [{"sampling": {"temperature": t}} for t in (1.0, 1.0, 1.3, 1.0)]
    assert arms(folders, hot) == {"a": ["a-seed0", "a-seed1"], "a-seed2": ["a-seed2"], "b": ["b"]}


def test_seeds_of_one_arm_alone_are_compared_with_each_other(tmp_path):
    assert len(arms([tmp_path / f"a-seed{seed}" for seed in range(3)])) == 3
