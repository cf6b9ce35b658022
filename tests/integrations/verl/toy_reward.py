"""A task reward for full loops: share of the words that start with one of the first letters of the alphabet."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """verl's signature."""
    words = solution_str.split()
    return sum(word[0] <= ground_truth for word in words) / max(len(words), 1)
