import copy
import json
import os
import pickle

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import clashes, question, questions, trees

from gz_jax import labels
from gz_jax.runtime.errors import UserError

Q = '[[questions]]\nname = "a"\nanswers = ["x", "y"]\n'
B, C = Q.replace('"a"', '"b"'), Q.replace('"a"', '"c"')


def toml(record):
    """A record as TOML, whose strings and lists of strings are written as JSON's."""
    parts = record.pop("questions")
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in record.items() if value is not None]
    for part in parts:
        lines += [
            "[[questions]]",
            *(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in part.items()),
        ]
    return "\n".join(lines)


@given(
    tree=trees(), name=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable() and text == text.strip())
)
@settings(deadline=None)
def test_a_tree_is_the_same_after_json_and_toml(tmp_path_factory, tree, name):
    tree = labels.Tree(name, tree.questions, tree.citation, tree.merger)
    again = labels.from_dict(json.loads(json.dumps(labels.as_dict(tree))))
    path = tmp_path_factory.mktemp("tree") / "tree.toml"
    path.write_text(toml(labels.as_dict(tree)))
    for other in (again, labels.load(path), pickle.loads(pickle.dumps(tree)), copy.deepcopy(tree)):
        assert other == tree
        assert hash(other) == hash(tree)
        assert labels.differences(tree, other) == []


@given(tree=trees())
@settings(deadline=None)
def test_places_and_order(tree):
    assert [tree.columns.index(column) for column in tree.columns] == list(map(tree.index, tree.columns))
    assert list(range(len(tree.keys))) == list(map(tree.index, tree.keys))
    before = set()
    for i in tree.order:
        assert before.issuperset(tree.questions[i].after)
        before |= set(tree.questions[i].keys)
        assert tree.keys[tree.slices[i]] == tree.questions[i].keys
        assert {tree.keys[p] for p in tree.parents[i]} == set(tree.questions[i].after)
        assert {n for n, q in enumerate(tree.question_of) if q == i} == set(range(*tree.slices[i].indices(999)))
    assert sorted(tree.order) == list(range(len(tree.questions)))


@given(made=questions(valid=False, most=5))
@settings(deadline=None, max_examples=300)
def test_parents_are_refused_just_where_one_volunteer_may_give_two_of_them(made):
    if any(clashes(made[:i], q.after) for i, q in enumerate(made)):
        with pytest.raises(UserError, match="which one volunteer may both give"):
            labels.Tree("t", tuple(made))
    else:
        labels.Tree("t", tuple(made))


def test_parents_of_branches_that_part_at_different_questions_are_allowed():
    r, s = question("r", "xyz"), question("s", "xy", ["r_x"])
    t = question("t", "xy", ["r_y", "s_x"])  # whoever was asked it gave r_y, or r_x and s_x
    labels.Tree("t", (r, s, t, question("u", "xy", ["t_x", "s_y"])))


def test_an_equal_tree_is_not_compiled_again(tmp_path):
    traced = []

    def fractions(x, tree):
        traced.append(tree)
        return labels.rescale(x, "softmax", tree)

    compiled = jax.jit(fractions, static_argnums=1)
    for _ in range(3):
        compiled(jnp.zeros(34), labels.load("galaxy_zoo_decals"))
    compiled(jnp.zeros(34), pickle.loads(pickle.dumps(traced[0])))
    assert len(traced) == 1
    compiled(jnp.zeros(34), labels.load("galaxy_zoo_decals_8"))
    assert len(traced) == 2


def test_differences_in_words():
    decals, other = labels.load("galaxy_zoo_decals"), labels.load("galaxy_zoo_decals_12")
    assert "answers of 'bar' were strong, weak, no and are now yes, no" in labels.differences(decals, other)
    one, two = labels.Tree("t", (question("a", "xy"), question("b", "xy"))), labels.Tree("t", (question("b", "xy"),))
    assert labels.differences(one, two) == ["the question 'a' is not there any more"]
    assert labels.differences(two, one) == ["the question 'a' was not there"]
    swapped = labels.Tree("t", one.questions[::-1])
    assert labels.differences(one, swapped) == ["the questions are in another order"]


def test_a_tree_like_another(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'like = "galaxy_zoo_decals"\nwithout = ["bar", "merging"]\nmerger = ""\nsuffix = "-me"\n'
        + Q + 'after = ["disk-edge-on_no"]\n' + Q.replace('"a"', '"how-rounded"')
    )  # fmt: skip
    (tmp_path / "next.toml").write_text('like = "mine.toml"\nwithout = ["how-rounded"]\n' + Q)
    mine, following = labels.load(tmp_path / "mine.toml"), labels.load(str(tmp_path / "next.toml"))
    names = [q.name for q in labels.load("galaxy_zoo_decals").questions if q.name not in ("bar", "merging")]
    assert [q.name for q in mine.questions] == [*names, "a"]
    assert mine.columns[mine.index("how-rounded_y")] == "how-rounded-me_y"
    assert mine.merger is None
    assert mine.name == "mine"
    assert following.name == "next"
    assert [q.name for q in following.questions] == [*(name for name in names if name != "how-rounded"), "a"]
    assert following.questions[-1].after == ()


LONG = "A" * 5000
REFUSED = {
    "a = = 1": "cannot be read as TOML: Invalid value",
    b"name = '\xe9'": "cannot be read as TOML: 'utf-8'",
    bytes(range(256)): "cannot be read as TOML",
    "": "it has no question",
    "questions = []": "it has no question",
    "#" * (2 << 20): "more than 1048576 bytes",
    "a = " + "[" * 100_000: "cannot be read as TOML: maximum recursion",
    "a" + ".a" * 400_000 + " = 1": "a dot outside of quotes",
    'name = """x"""': "three quotes in a row",
    "name = 3\n" + Q: "'name' of the tree must be a text in quotes",
    "name = 0x" + "F" * 20_000 + "\n" + Q: "'name' of the tree must be a text in quotes",
    "citation = 1979-05-27\n" + Q: "'citation' of the tree must be a text in quotes",
    "merger = true\n" + Q: "'merger' of the tree must be a text in quotes",
    "suffix = ['a']\n" + Q: "'suffix' of the tree must be a text in quotes",
    "questions = 3": "'questions' must be a list of tables",
    "questions = [3]": "'questions' must be a list of tables",
    "[questions]\nname = 'a'": "'questions' must be a list of tables",
    "[[questions]]\nname = 3": "each with a name in quotes",
    "[[questions]]\nanswers = ['x', 'y']": "each with a name in quotes",
    Q + "text = 3": "'text' of question 'a' must be a text in quotes",
    Q + "after = 'b_x'": "'after' of question 'a' must be a list of texts, each in quotes",
    Q + "columns = [1, 2]": "'columns' of question 'a' must be a list of texts, each in quotes",
    Q + "texts = [true, false]": "'texts' of question 'a' must be a list of texts, each in quotes",
    "[[questions]]\nname = 'a'\nanswers = [['x'], ['y']]": "'answers' of question 'a' must be a list of texts",
    "question = 3\n" + Q: "the tree has the unknown field 'question'; it may have name, citation",
    "without = ['b']\n" + Q: "the tree has the unknown field 'without'",
    Q + "answer = ['x']": "question 'a' has the unknown field 'answer'; it may have name, text, answers",
    Q + f'"{LONG}" = 1': "question 'a' has the unknown field 'AAA",
    Q + "texts = ['x']": "question 'a' has 2 answers, 1 texts, 2 columns",
    Q + "columns = ['x']": "question 'a' has 2 answers, 2 texts, 1 columns",
    "[[questions]]\nname = 'a'\nanswers = ['x']": "question 'a' has one answer only",
    "[[questions]]\nname = 'a'": "question 'a' has no answer",
    "[[questions]]\nname = 'a'\nanswers = [" + "'x'," * 1001 + "]": "it has 1001 answers, more than 1000",
    Q + Q: "the question 'a' is there twice",
    Q.replace('"y"', '"x"'): "the answer 'a_x' is there twice",
    Q.replace('"x"', '"b_c"') + Q.replace('"a"', '"a_b"').replace('"x"', '"c"'): "the answer 'a_b_c' is there twice",
    Q + "columns = ['P', 'p']": "the column 'p' is there twice",
    Q + "columns = ['ID', 'p']": "the column 'id' has another meaning in tables",
    Q + "columns = ['p', 'Spread_p']": "the column 'spread_p' has another meaning in tables",
    Q + "columns = ['a_y', 'a_x']": "the column 'a_y' has another meaning in tables",
    Q.replace('"a"', '"a\\nb"'): r"question 1 has the name 'a\nb': it must be 1 to 200 characters on one line",
    Q.replace('"x"', '"\\u0000"'): r"question 1 has the",
    Q + 'columns = ["\\u001b[2J", "y"]': r"question 1 has the column '\x1b[2J'",
    Q + 'text = "\\u202e"': "question 1 has the text",
    Q + 'text = " "': "question 1 has the text ' '",
    Q.replace('"a"', f'"{LONG}"'): "question 1 has the name 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA...'",
    'name = "a\\nb"\n' + Q: r"the tree has the name 'a\nb'",
    'citation = "a\\tb"\n' + Q: r"the tree has the citation 'a\tb'",
    'merger = "a_z"\n' + Q: "its merger is 'a_z', which is no answer; do you mean a_",
    Q + "after = ['a_x']": "these questions lead to themselves: a",
    Q + "after = ['b_x']\n" + B + "after = ['a_x']": "these questions lead to themselves: ",
    Q + "after = ['b_x']\n" + B + "after = ['c_x']\n" + C + "after = ['a_x']": "these questions lead to themselves: ",
    Q + B + "after = ['a_xx']": "question 'b' comes after 'a_xx', which is no answer; do you mean a_x?",
    Q + f"after = ['{LONG}']": "question 1 has the parent 'AAA",
    Q + B + "after = ['a_x', 'a_x']": "question 'b' comes after the same answer twice",
    Q + B + C + "after = ['a_x', 'b_x']": "question 'c' comes after 'a_x' and 'b_x', which one volunteer may both give",
    "like = 3": "'like' must be the name or the file of another tree",
    "like = 'tree.toml'": "'like' leads in a circle",
    "like = 'galaxy_zoo_decal'": "no such tree and no such file; do you mean galaxy_zoo_decals",
    "like = '.'": "no such tree and no such file; the trees are galaxy_zoo_1",
    "like = 'rings'\nwithout = ['bar']": "'without' must list questions of 'rings', which are ring",
    "like = 'rings'\nwithout = [['ring']]": "'without' must list questions of 'rings'",
    "like = 'rings'\nwithout = 'ring'": "'without' must list questions of 'rings'",
    "like = 'rings'\nwithout = ['ring']": "it has no question",
    "like = 'rings'\n" + Q + Q: "the question 'a' is there twice",
    "like = 'galaxy_zoo_decals'\nwithout = ['merging']": "its merger is 'merging_merger', which is no answer",
    "like = 'galaxy_zoo_decals'\nwithout = ['disk-edge-on']": "comes after 'disk-edge-on_no', which is no answer",
}  # fmt: skip


def refusal(path):
    with pytest.raises(UserError) as raised:
        labels.load(path)
    message = str(raised.value)
    assert len(message) < 700
    assert message.isprintable()  # so it is one line
    return message


@pytest.mark.parametrize(("content", "fault"), REFUSED.items(), ids=map(str, range(len(REFUSED))))
def test_a_wrong_file_is_refused_in_one_line_that_names_it(tmp_path, content, fault):
    path = tmp_path / "tree.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(path)
    assert fault in message
    assert str(tmp_path) in message


def test_a_circle_of_files_is_refused(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.toml").write_text(f"like = './{(i + 1) % 3}.toml'")
    assert "'like' leads in a circle" in refusal(tmp_path / "0.toml")
    for i in range(30):
        (tmp_path / f"{i}.toml").write_text(f"like = '{i + 1}.toml'")
    assert "too many files" in refusal(tmp_path / "0.toml")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    for path in (
        tmp_path,
        tmp_path / "fifo",
        tmp_path / "none.toml",
        "/dev/zero",
        "a\nb",
        "",
        "~nobody-here/x",
        "galaxy",
    ):
        assert "no such tree and no such file" in refusal(path)
    assert "do you mean galaxy_zoo_2" in refusal("galaxy_zoo2")
    for path in ("a\0b", "~\0", "x" * 300):
        refusal(path)


@pytest.mark.parametrize(
    "record", [None, 3, [], {"questions": {}}, {"questions": [[]]}, {"name": [[[[]]]], "questions": []}]
)
def test_a_wrong_record_is_refused(record):
    with pytest.raises(UserError, match=r"^the decision tree 'm.json': ") as raised:
        labels.from_dict(record, "m.json")
    assert str(raised.value).isprintable()


def test_an_unknown_answer_names_the_nearest():
    with pytest.raises(UserError, match="Galaxy Zoo 2 has no answer 'bar_yess'; do you mean bar_yes"):
        labels.GALAXY_ZOO_2.index("bar_yess")
    with pytest.raises(UserError, match=r"no answer 'wheel'; its answers are Class1.1, .* and 31 more"):
        labels.GALAXY_ZOO_2.index("wheel")
