import pytest

from shardline.base.errors import ConfigError
from shardline.checkpoint.shards.renaming import Rule, read_rules, rename
from shardline.checkpoint.shards.selection import Selection, selection_from, selection_record

RULES = r"""﻿# MindFormers = Hugging Face
model\.layers\.(\d+)\.attention\.(?P<part>w[qkv])\.(.*) = model.layers.\1.self_attn.\g<part>_proj.\3

  lm_head\.weight   =   output.weight
(.*)\.gamma = \1.weight
"""


@pytest.fixture
def rules(tmp_path):
    def read(text):
        (tmp_path / "rules.txt").write_text(text, encoding="utf-8")
        return read_rules(tmp_path / "rules.txt")

    return read


def test_the_first_rule_that_matches_the_whole_name_is_taken(rules):
    names = ["model.layers.11.attention.wq.weight", "lm_head.weight", "old.lm_head.weight", "norm.gamma"]
    renamed = rename(names, rules(RULES))
    assert renamed.names == {
        "model.layers.11.attention.wq.weight": "model.layers.11.self_attn.wq_proj.weight",
        "lm_head.weight": "output.weight",
        "old.lm_head.weight": "old.lm_head.weight",
        "norm.gamma": "norm.weight",
    }
    assert renamed.unused == ()
    assert rename(["a.b"], [Rule("a.*", "first"), Rule(r"a\.b", "second")]).names == {"a.b": "first"}


def test_names_may_change_places(rules):
    assert rename(["a", "b"], rules("a = b\nb = a\r\n")).names == {"a": "b", "b": "a"}


def test_a_rule_that_matches_nothing_is_told(rules):
    unused = rename(["norm.gamma"], rules(RULES)).unused
    assert [rule.where.rpartition(":")[2] for rule in unused] == ["2", "4"]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (r"(a|b)\.w = c.w", ["a.w", "b.w"], r"rules.txt:1: 'a.w' and 'b.w' would both be named 'c.w'"),
        ("\na = b", ["b", "a"], r"rules.txt:2: 'b' and 'a' would both be named 'b'"),
        ("a = b", ["a", "b"], r"rename: 'a' and 'b' would both be named 'b'"),
        ("(a)(x)? = \\2", ["a"], r"rules.txt:1: 'a' would be named ''"),
        ("a = ../../etc/passwd", ["a"], r"would be named '../../etc/passwd', which is no parameter's name"),
    ],
)
def test_clashes_and_names_that_are_none_are_refused(rules, text, names, message):
    with pytest.raises(ConfigError, match=message):
        rename(names, rules(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = b\na b", r"rules.txt:2: expected PATTERN = REPLACEMENT, one = between spaces"),
        ("a=b", "one = between spaces"),
        ("a = b = c", "one = between spaces"),
        ("= b", "one = between spaces"),
        ("a =", "one = between spaces"),
        ("a( = b", r"rules.txt:1: expected a regular expression .*unterminated subpattern"),
        (r"a = \1", "rules.txt:1: .*invalid group reference"),
        (r"a = \g<x>", "rules.txt:1: .*unknown group name"),
        ("# nothing", "expected rules for names.*found none"),
    ],
)
def test_a_line_that_is_no_rule_is_named(rules, text, message):
    with pytest.raises(ConfigError, match=message):
        rules(text)


def test_files_that_hold_no_text_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rules(tmp_path)
    (tmp_path / "binary").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="byte 4 is none"):
        read_rules(tmp_path / "binary")


def test_rules_survive_their_record(rules):
    selection = Selection(rename=rules(RULES))
    assert selection_from(selection_record(selection)) == selection
    assert "rename" not in selection_record(Selection())
