"""Random decision trees for hypothesis, and what is true of a tree by plain counting."""

import itertools

from hypothesis import strategies as st

from gz_jax.labels import Question, Tree


def question(name, answers, after=()):
    return Question(
        name,
        f"{name}?",
        tuple(answers),
        tuple(f"{name}: {a}" for a in answers),
        tuple(f"{name}-x_{a}" for a in answers),
        tuple(after),
    )


def volunteers(questions):
    """Every way to answer: sets of '<question>_<answer>'. A question comes after those that lead to it."""
    found = [frozenset()]
    for q in questions:
        found = [
            new
            for given in found
            for new in ([given | {key} for key in q.keys] if not q.after or given & set(q.after) else [given])
        ]
    return found


def clashes(questions, keys):
    """Whether one volunteer may give two of these answers."""
    return any(len(given & set(keys)) > 1 for given in volunteers(questions))


@st.composite
def questions(draw, valid=True, most=7):
    """Questions, each after those that lead to it: several roots, several parents, up to `most` levels."""
    made = []
    for i in range(draw(st.integers(1, most))):
        keys = [key for q in made for key in q.keys]
        recent = [key for q in made[-1:] for key in q.keys]
        wanted = draw(st.lists(st.sampled_from([*keys, *recent]), max_size=4, unique=True)) if keys else []
        after = []
        for key in wanted:
            if not valid or not clashes(made, [*after, key]):
                after.append(key)
        made.append(question(f"q{i}", [f"a{j}" for j in range(draw(st.integers(2, 4 if i < 2 else 3)))], after))
    return made


@st.composite
def trees(draw):
    """Valid trees, with the questions in any order."""
    made = draw(questions())
    keys = list(itertools.chain(*(q.keys for q in made)))
    merger = draw(st.none() | st.sampled_from(keys))
    return Tree("random", tuple(draw(st.permutations(made))), "nobody", merger)
