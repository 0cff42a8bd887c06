"""The disease tree: the shipped files, closure of labels, masks, ragged trees, and every fault named by its line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlip.taxonomy import Taxonomy, TaxonomyError

RAGGED = """\
name: ragged
classes:
  - name: a
    children:
      - name: b
        children:
          - name: c
            children:
              - name: d
      - name: e
      - name: f
        levels: [2]
      - name: g
        levels: [3, 4]
  - name: z
    levels: [1, 4]
"""


@pytest.fixture(scope="module")
def brain() -> Taxonomy:
    return Taxonomy.load("brain_mri")


def write(folder: Path, text: str) -> Path:
    path = folder / "tree.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# -- the shipped trees


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("brain_mri", (4, 6, 16)),
        ("brain_mri_clinical", (5, 6, 16)),
        ("brain_mri_2level", (4, 16)),
        ("brain_mri_flat", (16,)),
        ("leukemia", (3, 2, 7)),
    ],
)
def test_shipped_trees_load_and_have_prompts(name: str, counts: tuple[int, ...]) -> None:
    tree = Taxonomy.load(name)
    assert (tree.name, tree.counts, tree.depth, tree.normal) == (name, counts, len(counts), "normal")
    assert len(tree.level_names) == tree.depth
    for level in range(1, tree.depth + 1):
        for place, item in enumerate(tree.classes(level)):
            assert (item.level, item.index, item.name) == (level, place, tree.levels[level - 1][place])
            assert item.prompt == item.prompt.strip()
            assert not item.prompt.endswith(".")
            assert len({item.prompt, *item.synonyms}) == 1 + len(item.synonyms), f"{item.name}: a phrase stands twice"
    assert name == "leukemia" or all(item.synonyms for item in tree.classes(tree.depth))


def test_brain_mri_is_the_published_tree(brain: Taxonomy) -> None:
    assert brain.levels[0] == ("vascular", "occupying", "developmental", "normal")
    assert brain.levels[1] == (
        "hemorrhage", "infarction", "white matter hyperintensity", "tumor", "degeneration", "deformity",
    )  # fmt: skip
    assert brain.find("Alzheimer's disease").parent == "degeneration"
    assert brain.find("degeneration").parent == "occupying"
    assert brain.edges(1) == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (2, 5)]
    assert brain.find("glioma").codes == {"snomed": "393564001"}


def test_alternative_trees_share_the_labels_of_the_default(brain: Taxonomy) -> None:
    clinical = Taxonomy.load("brain_mri_clinical")
    assert clinical.levels[1:] == brain.levels[1:]
    assert clinical.levels[0] == ("vascular", "occupying", "degeneration", "developmental", "normal")
    families = {item.name: item.parent for item in clinical.classes(2)}
    assert families["degeneration"] == "degeneration"
    assert families["tumor"] == "occupying"
    assert clinical.edges(2) == brain.edges(2)
    assert not clinical.same_tree(brain)
    for name, depth in (("brain_mri_flat", 1), ("brain_mri_2level", 2)):
        assert Taxonomy.load(name).same_tree(brain.to_depth(depth)), name
        assert Taxonomy.load(name).to_dict()["classes"] == brain.to_depth(depth).to_dict()["classes"], name


def test_every_shipped_tree_loads_without_a_warning() -> None:
    files = sorted((Path(__file__).parents[3] / "configs" / "taxonomy").glob("*.yaml"))
    assert len(files) >= 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file in files:
            Taxonomy.load(file)


def test_words_lose_their_blanks_and_a_shared_prompt_is_warned_of(tmp_path: Path) -> None:
    text = (
        "name: t\nclasses:\n  - {name: ' a', synonyms: ['s ', x]}\n  - {name: b, prompt: ' c '}\n  - name: d\n    prompt: A\n"
    )
    with pytest.warns(UserWarning, match=r"tree.yaml, line 6: 'd' has the prompt of 'a', 'A'") as found:
        tree = Taxonomy.load(write(tmp_path, text))
    assert len(found) == 1
    first, second, _ = tree.classes(1)
    assert (first.name, first.prompt, first.synonyms, second.prompt) == ("a", "a", ("s", "x"), "c")
    chain = "name: t\nclasses:\n  - {name: y, synonyms: [z], children: [{name: y, synonyms: [z]}]}\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Taxonomy.load(write(tmp_path, chain))  # one class on two levels
        Taxonomy.from_dict(tree.to_dict())  # of a checkpoint: warned of when its file was read


# -- ragged leaves, parents, edges


def test_a_leaf_is_carried_down_and_is_its_own_parent(brain: Taxonomy) -> None:
    name = "white matter hyperintensity"
    family, subtype = brain.levels[1].index(name), brain.levels[2].index(name)
    assert brain.find(name).level == 3
    assert (family, subtype) in brain.edges(2)
    assert brain.classes(3)[subtype].parent == name
    assert brain.classes(3)[subtype].parent_level == 2
    assert brain.subtree_leaves(2, family) == [subtype]


def test_a_leaf_that_skips_a_level_has_a_parent_but_no_edge(brain: Taxonomy) -> None:
    normal = brain.find("normal")
    assert (normal.level, normal.parent, normal.parent_level, normal.parent_index) == (3, "normal", 1, 3)
    assert "normal" not in brain.levels[1]
    assert normal.index not in [child for _, child in brain.edges(2)]
    assert brain.subtree_leaves(1, 3) == [normal.index]
    assert brain.subtree(1, 3, at=2) == []


def test_ragged_tree_of_four_levels(tmp_path: Path) -> None:
    tree = Taxonomy.load(write(tmp_path, RAGGED))
    assert tree.levels == (("a", "z"), ("b", "e", "f"), ("c", "e", "g"), ("d", "e", "g", "z"))
    assert tree.level_names == ("level 1", "level 2", "level 3", "level 4")
    assert tree.edges(1) == [(0, 0), (0, 1), (0, 2)]
    assert tree.edges(2) == [(0, 0), (1, 1)]  # g's parent is two levels up
    assert tree.edges(3) == [(0, 0), (1, 1), (2, 2)]
    assert tree.classes(3)[2].parent == "a"
    assert tree.classes(3)[2].parent_level == 1
    assert tree.subtree_leaves(1, 0) == [0, 1, 2]
    assert tree.subtree_leaves(2, 2) == []
    assert tree.subtree(1, 0, at=2) == [0, 1, 2]
    assert tree.subtree(1, 0, at=3) == [0, 1, 2]
    assert [target.tolist() for target in tree.encode(["g"])] == [[1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1, 0]]
    assert [target.tolist() for target in tree.encode(["f"])] == [[1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0, 0]]


def test_one_level_one_class_and_a_chain(tmp_path: Path) -> None:
    one = Taxonomy.load(write(tmp_path, "name: one\nclasses: [{name: only}]\n"))
    assert (one.depth, one.counts, one.normal) == (1, (1,), None)
    assert one.encode(["only"])[0].tolist() == [1.0]
    assert one.encode([])[0].tolist() == [0.0]
    assert one.classes(1)[0].prompt == "only"
    assert one.classes(1)[0].parent is None
    with pytest.raises(TaxonomyError, match="level 1 is not within 1 to 0"):
        one.edges(1)
    text = "name: chain\nclasses: [{name: x, children: [{name: y, children: [{name: y, children: [{name: w}]}]}]}]\n"
    chain = Taxonomy.load(write(tmp_path, text))
    assert chain.levels == (("x",), ("y",), ("y",), ("w",))
    assert chain.find("y").level == 3, "a name resolves to its deepest class"
    assert [target.tolist() for target in chain.encode(["y"])] == [[1], [1], [1], [0]]


# -- labels


def test_encode_closes_upward_and_mixes_levels(brain: Taxonomy) -> None:
    targets = brain.encode(["lacunar infarction", "metastasis", "hemorrhage"])
    named = [[name for name, on in zip(names, t, strict=True) if on] for names, t in zip(brain.levels, targets, strict=True)]
    assert named == [["vascular", "occupying"], ["hemorrhage", "infarction", "tumor"], ["lacunar infarction", "metastasis"]]
    assert [target.dtype for target in targets] == [np.float32] * 3
    normal = brain.encode(["normal"])
    assert [target.sum() for target in normal] == [1, 0, 1]
    assert [target.sum() for target in brain.encode("glioma")] == [1, 1, 1], "one name is not a list of letters"


def test_unknown_and_contradicting_labels_are_errors(brain: Taxonomy) -> None:
    with pytest.raises(TaxonomyError, match=r"brain_mri has no class 'gliomas' \(nearest: 'glioma'"):
        brain.encode(["gliomas"])
    with pytest.raises(TaxonomyError, match="a synonym of 'acute infarction': write that name"):
        brain.encode(["acute ischemic stroke"])  # a synonym is found, but not taken silently
    with pytest.raises(TaxonomyError, match="labelled 'normal' and also 'glioma'"):
        brain.encode(["normal", "glioma"])
    with pytest.raises(TaxonomyError, match=r"study s7: .*'nonsense'"):
        brain.encode_all([None, ["nonsense"]], names=["s6", "s7"])


def test_masks_of_unlabelled_empty_and_coarse_studies(brain: Taxonomy) -> None:
    labels = [None, [], ["vascular"], ["hemorrhage", "glioma"], ["normal"], ["infarction", "acute infarction"]]
    (t1, m1), (t2, m2), (t3, m3) = brain.encode_all(labels)
    assert [array.shape for array in (t1, m1, t2, m2, t3, m3)] == [(6, 4), (6, 4), (6, 6), (6, 6), (6, 16), (6, 16)]
    assert m1.all(axis=1).tolist() == [False, True, True, True, True, True]
    assert m2.all(axis=1).tolist() == [False, True, False, True, True, True]
    assert m3.all(axis=1).tolist() == [False, True, False, False, True, True]
    assert [m1[0].any(), m2[2].any(), m3[3].any()] == [False] * 3, "a level is masked as a whole"
    assert t1.sum(axis=1).tolist() == [0, 0, 1, 2, 1, 1]
    assert not (t2[4].any())
    assert not (t3[1].any())


def test_a_class_that_a_study_has_is_known_beside_a_coarse_label(brain: Taxonomy) -> None:
    given = [["hemorrhage", "glioma"], ["vascular"], ["glioma"]]
    (t1, m1), (t2, m2), (t3, m3) = brain.encode_all(given, below="absent")
    assert (m1.all(), m2[0].all(), m2[1].any(), m3[2].all()) == (True, True, False, True)
    # whatever else is unknown: a study with a label is not normal, or normal would be learnt from its positives alone
    assert [brain.levels[2][k] for k in np.flatnonzero(m3[0])] == ["glioma", "normal"]
    assert [brain.levels[2][k] for k in np.flatnonzero(m3[1])] == ["normal"]
    assert [brain.levels[2][k] for k in np.flatnonzero(t3[0])] == ["glioma"]
    assert not t3[1].any()
    assert all(np.array_equal(*pair) for pair in zip((t1, t2, t3), (t for t, _ in brain.encode_all(given)), strict=True))


def test_masks_below_a_coarse_label_only(brain: Taxonomy) -> None:
    (_, m1), (_, m2), (t3, m3) = brain.encode_all([["hemorrhage", "glioma"], ["vascular"]], below="subtree")
    assert m1.all()
    assert m2[0].all()
    unknown = [brain.levels[2][index] for index in np.flatnonzero(m3[0] == 0)]
    assert unknown == ["acute hemorrhage", "subacute hemorrhage", "chronic hemorrhage", "cerebral microbleeds"]
    assert t3[0, brain.find("glioma").index] == 1
    assert np.flatnonzero(m2[1] == 0).tolist() == [0, 1, 2]
    assert np.flatnonzero(m3[1] == 0).tolist() == list(range(8))


# -- content, digests, fewer levels


def test_content_survives_json_and_the_digest_sees_every_change(brain: Taxonomy, tmp_path: Path) -> None:
    content = json.loads(json.dumps(brain.to_dict()))
    again = Taxonomy.from_dict(content)
    assert again == brain
    assert again.digest == brain.digest
    assert again.levels == brain.levels
    assert len({brain.digest, Taxonomy.load("brain_mri_clinical").digest}) == 2
    content["classes"][0]["synonyms"].append("another word")
    changed = Taxonomy.from_dict(content)
    assert changed.digest != brain.digest
    assert changed.same_tree(brain)
    content["classes"].reverse()
    assert not Taxonomy.from_dict(content).same_tree(brain)
    plain = Taxonomy.load(
        write(tmp_path, "name: t\nclasses:\n  - {name: x, prompt: x}\n  - {prompt: y, name: y, levels: [1]}\n")
    )
    terse = Taxonomy.load(write(tmp_path, "classes: [{name: x}, {name: y}]\nname: t\nlevel_names: [level 1]\n"))
    assert plain.digest == terse.digest, "defaults and the order of keys are not content"


def test_fewer_levels(brain: Taxonomy) -> None:
    assert [brain.to_depth(depth).counts for depth in (1, 2, 3)] == [(16,), (4, 16), (4, 6, 16)]
    assert brain.to_depth(3) == brain
    lower = brain.select_levels([2, 3])
    assert lower.counts == (6, 16)
    assert lower.edges(1) == brain.edges(2)
    assert lower.find("normal").parent is None
    upper = brain.select_levels([1, 2])
    assert upper.counts == (4, 6)
    assert upper.edges(1) == brain.edges(1)
    two = brain.to_depth(2)
    assert two.classes(2)[0].parent == "vascular"
    assert two.subtree_leaves(1, 0) == brain.subtree_leaves(1, 0)
    for labels in (["lacunar infarction"], ["normal"], ["white matter hyperintensity", "glioma"]):
        full, short = brain.encode(labels), two.encode(labels)
        assert (short[0] == full[0]).all()
        assert (short[1] == full[2]).all()
    for wrong in ([], [0], [4], [1, 1]):
        with pytest.raises(TaxonomyError, match="cannot keep levels"):
            brain.select_levels(wrong)


# -- faults


@pytest.mark.parametrize(
    ("text", "line", "fragment"),
    [
        ("name: t\nclasses:\n  - name: a\n    chlidren: []\n", 4, "unknown key (did you mean 'children'?)"),
        (
            "name: t\nclasses:\n  - name: a\n  - name: b\n    parent: a\n",
            5,
            "unknown key (nesting is written the other way: this class stands in the list 'children:' of 'a')",
        ),
        ("name: t\nparent: a\nclasses:\n  - name: a\n", 2, "unknown key (known: name, level_names, classes)"),
        ("name: t\nclasses:\n  - name: a\n    children: []\n", 4, "non-empty list of classes, not an empty list"),
        ("name: t\nclasses:\n  - name: a\n    children: {name: b}\n", 4, "non-empty list of classes, not dict"),
        ("name: t\nclasses:\n  - name: a\n    children:\n", 4, "not nothing"),
        ("name: t\nclasses:\n  - prompt: a\n", 3, "name: missing"),
        ("name: t\nclasses:\n  - name: no\n", 3, "quote YAML words such as no"),
        ("name: t\nclasses:\n  - name: a\n    prompt: ''\n", 4, "prompt: not a non-empty string"),
        ("name: t\nclasses:\n  - name: a\n    synonyms: b\n", 4, "synonyms: must be a list of strings"),
        ("name: t\nclasses:\n  - name: a\n    codes: {snomed: 123}\n", 4, "quote digits"),
        ("name: t\nclasses:\n  - name: a\n    levels: [1.5]\n", 4, "list of integers from 1"),
        ("name: t\nclasses:\n  - name: a\n    levels: [2, 1]\n", 4, "must rise"),
        ("name: t\nclasses:\n  - name: a\n    children:\n      - name: b\n        levels: [1]\n", 6, "start at 2"),
        ("name: t\nclasses:\n  - name: a\n    levels: [1]\n    children:\n      - name: b\n", 4, "only a leaf lists levels"),
        ("name: t\nclasses:\n  - name: a\n  - name: b\n  - name: A\n", 5, "stands already on line 3"),
        ("name: t\nclasses:\n  - name: a\n    children:\n      - name: b\n  - name: b\n", 6, "stands already on line 5"),
        ("name: t\nclasses:\n  - name: 'a '\n  - name: a\n", 4, "'a' stands already on line 3"),
        (
            "name: t\nclasses:\n  - name: a\n    synonyms:\n      - x\n      - B\n  - name: b\n",
            6,
            "'B' is already the name of 'b'",
        ),
        (
            "name: t\nclasses:\n  - {name: a, synonyms: [x]}\n  - {name: b, synonyms: [' X']}\n",
            4,
            "'X' is already a synonym of 'a'",
        ),
        ("name: t\nclasses:\n  - {name: a, normal: true}\n  - {name: b, normal: true}\n", 4, "at most one class is normal"),
        ("name: t\nclasses:\n  - name: a\n    normal: true\n    children: [{name: b}]\n", 4, "has no children"),
        ("name: t\nclasses:\n  - name: a\n    normal: maybe\n", 4, "must be true or false"),
        ("name: t\nlevel_names: [x, y]\nclasses:\n  - name: a\n", 2, "2 name(s), but the tree has 1 level(s)"),
        ("name: t\nclasses:\n  - {name: a, levels: [1, 3]}\n", 2, "no class at level 2"),
        ("name: t\nclasses:\n  - a\n", 3, "a class is a mapping"),
        ("name: t\nclasses:\n  - name: a\n    name: b\n", 4, "key 'name' given twice"),
        ("name: t\nclasses:\n  - &x\n    name: a\n    children: [*x]\n", 5, "cycle"),
        ("name: t\nclasses: [\n", 3, "not YAML"),
    ],
)
def test_every_fault_names_file_and_line(tmp_path: Path, text: str, line: int, fragment: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TaxonomyError) as caught:
        Taxonomy.load(path)
    message = str(caught.value)
    assert [part for part in (str(path), f"line {line}:", fragment) if part not in message] == [], message


def test_all_faults_at_once_and_a_source_without_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "nam: t\nclasses:\n  - name: a\n    prompt: 3\n  - synonyms: [1]\n")
    with pytest.raises(TaxonomyError) as caught:
        Taxonomy.load(path)
    assert "5 problem(s)" in str(caught.value), str(caught.value)
    with pytest.raises(TaxonomyError, match=r"(?s)my checkpoint: 1 problem.*classes\[0\]\.name: missing"):
        Taxonomy.from_dict({"name": "t", "classes": [{}]}, source="my checkpoint")
    with pytest.raises(TaxonomyError, match="a taxonomy is a mapping"):
        Taxonomy.load(write(tmp_path, "- a\n- b\n"))
    with pytest.raises(TaxonomyError, match="a taxonomy is a mapping"):
        Taxonomy.load(write(tmp_path, ""))
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(TaxonomyError, match="not UTF-8 text"):
        Taxonomy.load(path)
    with pytest.raises(FileNotFoundError, match="built in: brain_mri"):
        Taxonomy.load("brain_mir")


# -- any tree


@st.composite
def trees(draw: st.DrawFn) -> dict[str, object]:
    """A random tree of up to four nested levels, with distinct names."""
    names = iter(range(10_000))

    def entry(nesting: int) -> dict[str, object]:
        made: dict[str, object] = {"name": f"class {next(names)}"}
        if nesting < 4 and draw(st.booleans()):
            made["children"] = [entry(nesting + 1) for _ in range(draw(st.integers(1, 3)))]
        return made

    return {"name": "random", "classes": [entry(1) for _ in range(draw(st.integers(1, 3)))]}


@settings(max_examples=60, deadline=None)
@given(trees(), st.randoms(use_true_random=False))
def test_closure_and_subtrees_agree_on_any_tree(content: dict[str, object], random: object) -> None:
    tree = Taxonomy.from_dict(content)
    assert Taxonomy.from_dict(tree.to_dict()) == tree
    names = [name for level in tree.levels for name in level]
    labels = random.sample(names, k=min(3, len(names)))  # type: ignore[attr-defined]
    targets = tree.encode(labels)
    for level in range(1, tree.depth):
        for parent, child in tree.edges(level):
            assert targets[level - 1][parent] >= targets[level][child], "a present child has a present parent"
        # Without explicit levels every class of a level hangs on exactly one class of the level above.
        assert [child for _, child in tree.edges(level)] == list(range(tree.counts[level]))
    for level in range(1, tree.depth + 1):
        leaves = [leaf for index in range(tree.counts[level - 1]) for leaf in tree.subtree_leaves(level, index)]
        assert sorted(leaves) == list(range(tree.counts[-1])), "every level's subtrees divide the last level"
    assert all(target[tree.find(label).index] == 1 for label in labels for target in [targets[tree.find(label).level - 1]])


def test_a_word_stands_for_one_class_or_none():
    """A name beats a code; what two classes share stands for none."""
    tree = Taxonomy.from_dict(
        {
            "name": "t",
            "level_names": ["top", "leaf"],
            "classes": [
                {
                    "name": "A",
                    "codes": {"snomed": "shared"},
                    "children": [{"name": "a1", "synonyms": ["One"], "codes": {"snomed": "123", "own": "B"}}],
                },
                {"name": "B", "codes": {"snomed": "shared"}, "children": [{"name": "b1"}]},
            ],
        }
    )
    assert [tree.meant_by(word) for word in ("a1", "A1", "one", "123", "b")] == ["a1", "a1", "a1", "a1", "B"]
    for word in ("shared", "nothing"):
        with pytest.raises(TaxonomyError, match=f"no class that '{word}' stands for"):
            tree.meant_by(word)
    assert Taxonomy.load("leukemia").meant_by("aml") == "acute myeloid leukemia"


def test_a_tree_out_of_a_checkpoint_opens_whatever_its_synonyms_are():
    content = {"name": "old", "classes": [{"name": "a", "synonyms": ["x"]}, {"name": "b", "synonyms": ["x"]}]}
    assert Taxonomy.from_dict(content).counts == (2,)
