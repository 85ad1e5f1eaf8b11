"""Checkpoint folders made on the spot, with templates of the structure of Gemma's and DeepSeek's.

Where transformers is installed, its `apply_chat_template` is the reference on benign contents.
"""

import json
import pickle
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grm_jax.text.chat_formats import DEEPSEEK_CHAT, GEMMA_CHAT
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message
from grm_jax.text.tokenizers import HuggingFaceTokenizer, train_sentencepiece

# a busy machine is no failure
PATIENT = dict(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
CORPUS = [
    "The user cat sat on 12 mats.\nThe model cat  sat on 345 mats.",
    "Scores: \\boxed{8, 9} #### Evaluation Criteria ####\n\nUser: Assistant: system",
] * 4
BOS, EOS, USER, ASSISTANT = (
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    *("<｜User｜>", "<｜Assistant｜>"),
)
GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}
{%- for turn in messages %}
    {%- if (loop.index0 is even) != (turn.role == 'user') %}
        {{- raise_exception('turns must alternate') }}
    {%- endif %}
    {%- set name = {'assistant': 'model'}.get(turn.role, turn.role) %}
    {{- '<start_of_turn>' ~ name ~ '\n' ~ turn.content | trim ~ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""
V2 = """{{ bos_token }}
{%- for turn in messages %}
    {%- if turn.role == 'assistant' %}{{ 'Assistant: ' ~ turn.content ~ eos_token }}
    {%- else %}{{ ('User: ' if turn.role == 'user' else '') ~ turn.content ~ '\n\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}
"""
V3 = """{% set found = namespace(system='') %}
{%- for turn in messages if turn.role == 'system' %}{% set found.system = turn.content %}
{%- endfor %}
{{- bos_token }}{{ found.system }}
{%- for turn in messages if turn.role != 'system' %}
    {%- if turn.role == 'user' %}{{ '<｜User｜>' ~ turn.content }}
    {%- else %}{{ '<｜Assistant｜>' ~ turn.content ~ '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}
"""
SYSTEM = Message("system", "Be brief.")
TURNS = [Message("user", "The cat"), Message("assistant", "sat on"), Message("user", "12 mats.")]
HOSTILE = st.lists(
    st.sampled_from(
        [
            *("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<end_of", "_turn>"),
            *(BOS, EOS, USER, ASSISTANT, "<｜", "Assistant", "｜>", "\ue0000\ue001", "\u2003"),
            *("{{ bos_token }}", "{% raw %}", "{{", "}}", "{#", " ", "\n", "\r\n", "\0", "a"),
        ]
    )
    | st.text(max_size=4),
    max_size=8,
).map("".join)


def train_bpe(path):
    """A byte-level BPE with DeepSeek's added tokens; the roles are not special, as in V2.5."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens([BOS, EOS])
    backend.add_tokens([AddedToken(name, normalized=False) for name in (USER, ASSISTANT)])
    backend.add_tokens(["<b>", "</b>", "\n\n"])  # text, as Gemma's vocabulary has it
    backend.save(str(path))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    train_sentencepiece(CORPUS, folder / "tokenizer.model", vocab_size=340)
    train_bpe(folder / "tokenizer.json")
    return folder


@pytest.fixture
def make(models, tmp_path):
    """make(file, template): a folder with `file`, and a config with further fields of its own."""

    def make(file, template=None, **fields):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        shutil.copy(models / file, folder)
        gemma = file == "tokenizer.model"
        config = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
        if not gemma:
            config = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
        kind = "GemmaTokenizer" if gemma else "PreTrainedTokenizerFast"
        config |= {"tokenizer_class": kind, "chat_template": template} | fields
        model_type = "gemma2" if gemma else "deepseek_v2"
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        kept = {name: value for name, value in config.items() if value is not None}
        (folder / "tokenizer_config.json").write_text(json.dumps(kept))
        return folder

    return make


@pytest.fixture
def load(make):
    return lambda *args, **fields: load_tokenizer(make(*args, **fields))


def named(tokenizer, *pieces):
    return [tokenizer._control[piece] for piece in pieces]


def controls(tokenizer, messages):
    hidden = set(tokenizer._control.values())
    return [i for i in tokenizer.chat(messages) if i in hidden]


KINDS = {
    "gemma": ("tokenizer.model", GEMMA),
    "v2": ("tokenizer.json", V2),
    "v3": ("tokenizer.json", V3),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)

# --- What is written --------------------------------------------------------------------------


def test_gemma_template_writes_as_the_built_in_format(load):
    plain, templated = load("tokenizer.model"), load("tokenizer.model", GEMMA)
    for prompt in (True, False):
        expected = plain.chat([SYSTEM, *TURNS], add_generation_prompt=prompt)  # folds as well
        assert templated.chat([SYSTEM, *TURNS], add_generation_prompt=prompt) == expected
    spaced = [Message(role, f" \n{content}\n ") for role, content in TURNS]
    assert templated.chat(spaced) == plain.chat(TURNS) != plain.chat(spaced)


def test_deepseek_v2_template_writes_as_the_built_in_format(load):
    plain, templated = load("tokenizer.json"), load("tokenizer.json", V2)
    assert plain.chat_format == DEEPSEEK_CHAT
    for messages in (TURNS, [SYSTEM, *TURNS], [SYSTEM]):
        assert templated.chat(messages) == plain.chat(messages)


def test_deepseek_v3_roles_are_control_pieces(load):
    tokenizer = load("tokenizer.json", V3)
    bos, eos, user, assistant = named(tokenizer, BOS, EOS, USER, ASSISTANT)
    text = tokenizer.encode
    assert tokenizer.chat([SYSTEM, *TURNS]) == [
        *(bos, *text("Be brief."), user, *text("The cat"), assistant, *text("sat on"), eos),
        *(user, *text("12 mats."), assistant),
    ]


@EVERY_KIND
@pytest.mark.parametrize("prompt", [True, False])
def test_transformers_writes_the_same(make, kind, prompt):
    transformers = pytest.importorskip("transformers")
    folder = make(*KINDS[kind])
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    long = [Message("user", "  a\n\n\nb \\boxed{1}  12"), Message("assistant", "é🤨\t")]
    for messages in (TURNS, TURNS[:1], long, [*long, *TURNS[:1]]):
        turns = [message._asdict() for message in messages]
        expected = reference.apply_chat_template(
            turns, add_generation_prompt=prompt, return_dict=False
        )
        assert tokenizer.chat(messages, add_generation_prompt=prompt) == expected


def test_gemma_as_newer_transformers_saves_it(make, tmp_path):
    """Only a tokenizer.json is left, and the template has a file of its own."""
    transformers = pytest.importorskip("transformers")
    folder, saved = make("tokenizer.model", GEMMA), tmp_path / "saved"
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(saved)
    assert (saved / "chat_template.jinja").exists() and not (saved / "tokenizer.model").exists()
    old, new = load_tokenizer(folder), load_tokenizer(saved)
    assert isinstance(new, HuggingFaceTokenizer) and old._control.items() <= new._control.items()
    assert new.chat(TURNS) == old.chat(TURNS)
    assert (new.stop_ids, new.pad_id) == (old.stop_ids, old.pad_id)
    text = "a\n\n\n<b>  c</b> <end_of_turn>"
    assert new.encode(text) == old.encode(text)
    assert new.decode(new.encode(text)) == text


@pytest.mark.parametrize(
    "head", ["", "{{ bos_token }}", "{{ bos_token }}{{ bos_token }}", "<bos><bos><bos>"]
)
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_exactly_one_bos(load, head, add_bos):
    body = GEMMA.removeprefix("{{ bos_token }}")
    tokenizer = load("tokenizer.model", head + body, add_bos_token=add_bos)
    expected = load("tokenizer.model").chat(TURNS)
    if not head:  # as transformers writes it: the template has the word
        assert tokenizer.bos_id is None and tokenizer.chat(TURNS) == expected[1:]
        return
    assert tokenizer.chat(TURNS) == expected
    assert expected.count(tokenizer.bos_id) == 1 and expected[0] == tokenizer.bos_id


def test_bos_inside_a_conversation_is_the_templates_own(load):
    template = "{% for turn in messages %}{{ bos_token }}{{ turn.content }}{% endfor %}"
    tokenizer = load("tokenizer.json", template)
    bos, text = tokenizer.bos_id, tokenizer.encode
    assert tokenizer.chat(TURNS[:2]) == [bos, *text("The cat"), bos, *text("sat on")]


def test_templates_are_written_for_the_settings_of_the_hub(load):
    template = """{% if tools is not none %}
tools
{% endif %}
{% for turn in messages %}
    {% if loop.index0 == 2 %}
    {% break %}
    {% endif %}
{{ turn.content }}{% endfor %}
"""
    tokenizer = load("tokenizer.json", template)
    assert tokenizer.decode(tokenizer.chat(TURNS[:2])) == "The catsat on"
    with pytest.raises(ValueError, match="leaves out"):
        tokenizer.chat(TURNS)


MARKED = """{{ bos_token }}{% for turn in messages %}
    {%- if turn.role == 'assistant' %}<start_of_turn>model
{% generation %}{% set said = turn.content %}{{ said }}<end_of_turn>{% endgeneration %}

    {%- else %}<start_of_turn>{{ turn.role }}
  {%- generation -%} {{ turn.content }} {%- endgeneration %}<end_of_turn>{{ said is defined }}
{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
THINKING = """{{ bos_token }}{% set day = strftime_now('%d') if strftime_now is defined else '26' %}
{%- for turn in messages %}{% set said = turn.content %}
    {%- if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}
    {{- '<start_of_turn>' ~ turn.role ~ '\n' ~ said ~ '<end_of_turn>\n' }}{% endfor %}"""


@pytest.mark.parametrize("template", [MARKED, THINKING])
@pytest.mark.parametrize("prompt", [True, False])
def test_templates_of_training_are_written_as_by_transformers(make, template, prompt):
    """With {% generation %}, which marks what is trained on, and the scope of its names."""
    folder = make("tokenizer.model", template)
    tokenizer = load_tokenizer(folder)
    text = tokenizer.decode(tokenizer.chat(TURNS, add_generation_prompt=prompt))
    assert all(turn.content in text for turn in TURNS)
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat(TURNS, add_generation_prompt=prompt) == reference.apply_chat_template(
        [message._asdict() for message in TURNS], add_generation_prompt=prompt, return_dict=False
    )


def test_what_is_marked_for_training_is_in_the_sandbox_too(make):
    for inside in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        template = "{% generation %}" + inside + "{% endgeneration %}"
        with pytest.raises(ValueError, match="chat_template: .*SecurityError"):
            load_tokenizer(make("tokenizer.json", template))
    with pytest.raises(ValueError, match="chat_template: .*endgeneration"):
        load_tokenizer(make("tokenizer.json", "{% generation %}{{ messages[0].content }}"))


def test_added_text_is_text(load):
    tokenizer = load("tokenizer.json", V3)
    for text in ("<b>", "</b>", "\n\n"):
        ids = tokenizer.encode(text)
        assert len(ids) == 1 and tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.encode("<b>ü\n\n\n</b>")) == "<b>ü\n\n\n</b>"


# --- Tokens past the table --------------------------------------------------------------------

CHATML = """{{ bos_token }}{% for turn in messages %}<|im_start|>{{ turn.role }}
{{ turn.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def add_tokens(folder, place, tokens, **flags):
    """Writes piece -> id as `place` has it."""
    path = folder / "tokenizer_config.json"
    entries = {
        str(i): {"content": piece, "special": True, "lstrip": False, "rstrip": False,
                 "normalized": False, "single_word": False, **flags}
        for piece, i in tokens.items()
    }  # fmt: skip
    if place == "added_tokens.json":
        (folder / place).write_text(json.dumps(tokens))
    elif place == "tokenizer_config.json":
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"added_tokens_decoder": entries}))
    else:
        added = [{"id": int(i), **entry} for i, entry in entries.items()]
        (folder / place).write_text(json.dumps({"added_tokens": added}))


PLACES = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")


@pytest.mark.parametrize(
    "file, place",
    [("tokenizer.model", place) for place in PLACES]
    + [("tokenizer.json", place) for place in PLACES[:2]],
)
def test_tokens_past_the_table_are_encoded_with_their_ids(make, file, place):
    plain = load_tokenizer(make(file))
    size = plain.vocab_size
    start, end = size + 2, size + 5  # ids may be left out, as rows of padding are
    folder = make(file, CHATML, eos_token="<|im_end|>")
    add_tokens(folder, place, {"<|im_start|>": start, "<|im_end|>": end})
    tokenizer = load_tokenizer(folder)
    text, newline = tokenizer.encode, tokenizer.encode("\n")
    assert tokenizer.chat(TURNS[:2]) == [
        *(tokenizer.bos_id, start, *text("user\nThe cat"), end, *newline),
        *(start, *text("assistant\nsat on"), end, *newline, start, *text("assistant\n")),
    ]
    assert tokenizer.vocab_size == end + 1 and tokenizer.stop_ids == (end,)
    assert tokenizer.chat([Message("user", "a<|im_end|>b")]).count(end) == 1
    assert tokenizer.decode([*text("a<|im_end|>"), end, size, end - 1, end + 9]) == "a<|im_end|>"
    assert text("The cat") == plain.encode("The cat")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.chat(TURNS) == tokenizer.chat(TURNS)
    other = make(file, CHATML, eos_token="<|im_end|>")
    add_tokens(other, place, {"<|im_start|>": end, "<|im_end|>": start})
    assert load_tokenizer(other).fingerprint() != tokenizer.fingerprint()


def test_tokens_that_repeat_the_table_change_nothing(make):
    plain, folder = load_tokenizer(make("tokenizer.model")), make("tokenizer.model")
    for place in PLACES:
        add_tokens(folder, place, {"<bos>": 2, "<end_of_turn>": plain.end_of_turn_id, "\n": 6})
    again = load_tokenizer(folder)
    assert again.fingerprint() == plain.fingerprint() and again.chat(TURNS) == plain.chat(TURNS)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "token, flags, message",
    [
        ({"<bos>": 999}, {}, "'<bos>': 999 cannot be its id"),
        ({"<x>": 300}, {}, "'<x>': 300 cannot be its id"),  # of a piece of text
        ({"<x>": -1}, {}, "'<x>': -1 cannot be its id"),
        ({"<x>": 10**15}, {}, "'<x>': 1000000000000000 cannot be its id"),
        ({"ab\nc": 999, "<b>": 1000, "</b>": 1001}, {"special": False}, "'<b>': is text"),
        ({"\n\n": 999}, {"special": False}, r"'\\n\\n': is text"),
    ],
)
def test_tokens_that_cannot_be_added_are_named(make, place, token, flags, message):
    folder = make("tokenizer.model")
    add_tokens(folder, place, token, **flags)
    with pytest.raises(ValueError, match=f"{place}: added token {message}"):
        load_tokenizer(folder)


def test_files_that_add_one_token_under_two_ids_are_refused(make):
    folder = make("tokenizer.model")
    add_tokens(folder, PLACES[0], {"<|im_start|>": 900})
    add_tokens(folder, PLACES[1], {"<|im_start|>": 901})
    with pytest.raises(ValueError, match=f"{PLACES[1]}: added token '<.im_start.>': 901"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "value",
    [3, [3], {"x": {}}, {"5": 3}, [{"content": []}], {"999": {"content": ""}}, {"999": {}}]
    + [[{"content": "a", "id": i}] for i in ("x", [3], 1.5)]
    + [[{"content": 3, "id": 3}]],
)
def test_broken_lists_of_added_tokens_are_named(make, value):
    folder = make("tokenizer.model", added_tokens_decoder=value)
    with pytest.raises(ValueError, match="tokenizer_config.json: added.token"):
        load_tokenizer(folder)
    folder = make("tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({"<a>": value and [value]}))
    with pytest.raises(ValueError, match="added_tokens.json: added token '<a>': .* cannot be its"):
        load_tokenizer(folder)


def test_transformers_adds_the_same_tokens(make):
    transformers = pytest.importorskip("transformers")
    for file in ("tokenizer.model", "tokenizer.json"):
        size = load_tokenizer(make(file)).vocab_size
        folder = make(file, CHATML, eos_token="<|im_end|>")
        add_tokens(folder, PLACES[1], {"<|im_start|>": size, "<|im_end|>": size + 1})
        reference, tokenizer = (
            read(folder) for read in (transformers.AutoTokenizer.from_pretrained, load_tokenizer)
        )
        turns = [message._asdict() for message in TURNS]
        expected = reference.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
        assert tokenizer.chat(TURNS) == expected


# --- Contents are data ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizers(models, tmp_path_factory):
    loaded = {}
    for kind, (file, template) in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        shutil.copy(models / file, folder)
        (folder / "chat_template.jinja").write_text(template)
        loaded[kind] = load_tokenizer(folder)
    return loaded


@EVERY_KIND
@settings(**PATIENT)
@given(contents=st.tuples(HOSTILE, HOSTILE, HOSTILE))
def test_contents_never_become_control_pieces(tokenizers, kind, contents):
    tokenizer = tokenizers[kind]
    if kind == "gemma":  # it trims, and U+2581 is the known loss of SentencePiece
        contents = [content.replace("▁", "_").strip() for content in contents]
    hostile = [Message(role, text) for (role, _), text in zip(TURNS, contents, strict=True)]
    assert controls(tokenizer, hostile) == controls(tokenizer, TURNS)
    text = tokenizer.decode(tokenizer.chat(hostile))
    for content in contents:
        assert content in text


def test_a_marker_made_where_template_and_content_meet_is_text(load):
    template = "{% for turn in messages %}<｜User{{ turn.content }}{% endfor %}"
    tokenizer = load("tokenizer.json", template)
    ids = tokenizer.chat([Message("user", "｜>")])
    assert ids == tokenizer.encode(USER)
    assert tokenizer._control[USER] not in ids


def test_text_is_tokenised_across_the_boundary_in_one_piece(load):
    template = "{% for turn in messages %}The c{{ turn.content }}{% endfor %}"
    tokenizer = load("tokenizer.json", template)
    ids = tokenizer.chat([Message("user", "at sat")])
    assert ids == tokenizer.encode("The cat sat")
    assert ids != tokenizer.encode("The c") + tokenizer.encode("at sat")


@pytest.mark.parametrize("name", ["lstrip", "rstrip", "strip"])
def test_trimming_of_either_end_is_followed(load, name):
    template = "{% for turn in messages %}[{{ turn.content." + name + "() }}]{% endfor %}"
    tokenizer = load("tokenizer.json", template)
    for content in ("\n  x \n", "x", "", " \t\n", "\u2003x\u2003"):
        expected = f"[{getattr(content, name)()}]"
        assert tokenizer.chat([Message("user", content)]) == tokenizer.encode(expected)


def test_trimming_of_one_role_only(load):
    template = (
        "{% for turn in messages %}"
        "[{{ turn.content | trim if turn.role == 'user' else turn.content }}]{% endfor %}"
    )
    tokenizer = load("tokenizer.json", template)
    ids = tokenizer.chat([Message("user", " a "), Message("assistant", " b ")])
    assert ids == tokenizer.encode("[a][ b ]")


@pytest.mark.parametrize(
    "expression, content, message",
    [
        ("turn.content.split('</think>')[-1]", "a</think>b", "transforms contents"),
        ("turn.content | escape", "a < b", "transforms contents"),
        ("turn.content[:20]", "x" * 30, "transforms contents"),
        ("turn.content.strip('#')", "#x#", "transforms contents"),
        ("'' if 'y' in turn.content else turn.content", "y", "transforms contents"),
    ],
)
def test_templates_that_rewrite_contents_are_refused(load, expression, content, message):
    tokenizer = load(
        "tokenizer.json", "{% for turn in messages %}{{ " + expression + " }}{% endfor %}"
    )
    tokenizer.chat([Message("user", "plain")])
    with pytest.raises(ValueError, match=message):
        tokenizer.chat([Message("user", content)])


def test_templates_that_drop_a_message_are_refused(load):
    template = "{% for turn in messages if turn.role != 'system' %}{{ turn.content }}{% endfor %}"
    tokenizer = load("tokenizer.json", template)
    tokenizer.chat(TURNS)
    with pytest.raises(ValueError, match="leaves out"):
        tokenizer.chat([SYSTEM, *TURNS])


@pytest.mark.parametrize(
    "kind, messages, message",
    [
        ("gemma", [], "at least one"),
        ("gemma", [SYSTEM], "needs a user turn"),
        ("v3", [*TURNS, TURNS[0]], r"messages\[3\].role: expected 'assistant'"),
        ("gemma", [Message("tool", "x")], "turns must alternate"),  # its template decides
    ],
)
def test_chat_refuses(tokenizers, kind, messages, message):
    with pytest.raises(ValueError, match=message):
        tokenizers[kind].chat(messages)


def test_a_refusal_of_the_template_keeps_its_words(load):
    check = "{% if messages | length > 2 %}{{ raise_exception('too long for me') }}{% endif %}"
    tokenizer = load("tokenizer.json", check + V3)
    tokenizer.chat(TURNS[:2])
    with pytest.raises(ValueError, match="too long for me"):
        tokenizer.chat(TURNS)


# --- Special ids ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, closing", [("gemma", "<end_of_turn>"), ("v2", EOS), ("v3", EOS)])
def test_end_of_turn_is_what_closes_an_answer(tokenizers, kind, closing):
    tokenizer = tokenizers[kind]
    assert [tokenizer.end_of_turn_id] == named(tokenizer, closing)
    assert tokenizer.stop_ids == tuple(dict.fromkeys((tokenizer.eos_id, tokenizer.end_of_turn_id)))


def test_end_of_turn_without_a_closing_piece_is_eos(load):
    template = "{% for turn in messages %}<｜User｜>{{ turn.content }}\n{% endfor %}"
    tokenizer = load("tokenizer.json", template)
    assert tokenizer.end_of_turn_id == tokenizer.eos_id


@pytest.mark.parametrize("value, more", [(7, (7,)), ([1, 7, 9, 7], (7, 9)), (None, ()), ([], ())])
@pytest.mark.parametrize("template", [GEMMA, None])
def test_generation_config_adds_stop_ids(make, template, value, more):
    folder = make("tokenizer.model", template)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.stop_ids == (1, tokenizer.end_of_turn_id, *more)


@pytest.mark.parametrize("value, more", [(7, (7,)), ([1, 7, 9], (7, 9)), (None, ())])
def test_without_a_generation_config_the_config_adds_stop_ids(make, value, more):
    folder = make("tokenizer.model", GEMMA)
    config = {"model_type": "gemma2", "eos_token_id": value}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.stop_ids == (1, tokenizer.end_of_turn_id, *more)
    (folder / "generation_config.json").write_text('{"eos_token_id": 8}')
    assert load_tokenizer(folder).stop_ids == (1, tokenizer.end_of_turn_id, 8)


def test_special_tokens_are_read_in_either_form(load):
    tokenizer = load("tokenizer.json", V3, pad_token={"content": USER}, eos_token=ASSISTANT)
    assert [tokenizer.pad_id, tokenizer.eos_id] == named(tokenizer, USER, ASSISTANT)
    for template in (V3, None):
        tokenizer = load("tokenizer.model", template, pad_token=None)
        assert tokenizer.pad_id == tokenizer.eos_id == 1
    tokenizer = load("tokenizer.json", eos_token=ASSISTANT)  # the built-in format follows
    assert tokenizer.end_of_turn_id == tokenizer.eos_id


@pytest.mark.parametrize(
    "architecture",
    [
        {"architectures": ["Gemma2ForCausalLM"]},
        {"architectures": ["Gemma2ForSequenceClassification"], "model_type": "gemma2"},
        {"model_type": "gemma2"},
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
        {"model_type": "gemma3_text"},
        {"architectures": None, "model_type": "gemma"},
    ],
)
def test_the_format_is_that_of_the_architecture_and_not_of_the_file(make, tmp_path, architecture):
    """A tokenizer.json with the pieces of Gemma, as newer programs save it, without a template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    pieces = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=pieces, show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(CORPUS, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps(architecture))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_format == GEMMA_CHAT
    assert (tokenizer.pad_id, tokenizer.stop_ids) == (0, (1, 4))
    ids = [2, 3, *tokenizer.encode("user\nThe cat"), 4, *tokenizer.encode("\n"), 3]
    assert tokenizer.chat(TURNS[:1]) == [*ids, *tokenizer.encode("model\n")]


@pytest.mark.parametrize(
    "architecture, name",
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"model_type": "deepseek_v3"}, "deepseek_v3"),  # has other turns than V2
        ({"architectures": ["DeepseekV3ForCausalLM"]}, "DeepseekV3ForCausalLM"),
        ({}, "None"),
        (None, "None"),
    ],
)
def test_an_architecture_without_a_format_needs_a_template(make, architecture, name):
    folder = make("tokenizer.json")
    (folder / "config.json").unlink()
    if architecture is not None:
        (folder / "config.json").write_text(json.dumps(architecture))
    with pytest.raises(ValueError, match=f"{folder.name}: has no chat template.* {name} of"):
        load_tokenizer(folder)
    if architecture:  # the kind of file says no more of SentencePiece
        shutil.copy(folder / "config.json", gemma := make("tokenizer.model"))
        with pytest.raises(ValueError, match=f"{gemma.name}: has no chat template.* {name} of"):
            load_tokenizer(gemma)
    (folder / "chat_template.jinja").write_text(V3)
    assert load_tokenizer(folder).chat(TURNS)


def test_a_bare_folder_has_the_built_in_format(models, tmp_path):
    shutil.copy(models / "tokenizer.model", tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, 2)
    assert tokenizer.stop_ids == (1, tokenizer.end_of_turn_id)


# --- Files ------------------------------------------------------------------------------------


def test_where_the_template_is_found(make):
    other = V3.replace(USER, "U:")
    expected = load_tokenizer(make("tokenizer.json", V3)).chat(TURNS)
    lists = [{"name": "tool_use", "template": other}, {"name": "default", "template": V3}]
    assert load_tokenizer(make("tokenizer.json", lists)).chat(TURNS) == expected
    folder = make("tokenizer.json", other)
    assert load_tokenizer(folder).chat(TURNS) != expected
    (folder / "chat_template.jinja").write_text(V3)
    assert load_tokenizer(folder).chat(TURNS) == expected


def test_fingerprint_covers_the_template(load):
    prints = [load("tokenizer.json", t).fingerprint() for t in (None, V2, V3, V3 + " ", V3)]
    assert len(set(prints)) == 4 and prints[2] == prints[4]


def test_fingerprints_tell_the_pieces_from_the_template(load):
    one, other = (load("tokenizer.json", t).fingerprints() for t in (V2, V3))
    assert one["tokenizer"] == other["tokenizer"] != one["chat_template"]
    assert one["chat_template"] != other["chat_template"]
    more = load("tokenizer.model", V2).fingerprints()
    assert more["tokenizer"] != one["tokenizer"] and len(more["tokenizer"]) == 64


def test_templated_tokenizers_travel_to_worker_processes(tokenizers):
    for tokenizer in tokenizers.values():
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.chat([SYSTEM, *TURNS]) == tokenizer.chat([SYSTEM, *TURNS])
        assert copy.fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"bos_token": "<s>"}, r"tokenizer.json: .*'<s>' for bos"),
        ({"eos_token": "eos"}, r"tokenizer.json: .*'eos' for eos"),
        ({"pad_token": 3}, "tokenizer_config.json: pad_token.*3"),
        ({"pad_token": {"id": 3}}, "tokenizer_config.json: pad_token.*id"),
        ({"template": 3}, "tokenizer_config.json: chat_template: expected text"),
        ({"template": [{"name": "rag"}]}, "tokenizer_config.json: chat_template: .*'rag'"),
        ({"template": "{% if %}"}, "tokenizer_config.json: chat_template: .*Syntax"),
        ({"template": "{{ 1 / 0 }}"}, "chat_template: .*ZeroDivisionError"),
        ({"template": "{{ messages.append(1) }}"}, "chat_template: .*SecurityError"),
        ({"template": "{{ ''.__class__.__mro__[1] }}"}, "chat_template: .*SecurityError"),
        ({"template": "{{ messages[0].content }}"}, "chat_template: .*leaves out"),
        ({"template": "{{ messages[0].content }}" * 2}, "chat_template: .*leaves out"),
        ({"template": "{{ raise_exception('never') }}"}, "chat_template: .*never"),
    ],
)
def test_unusable_fields_are_named(make, fields, message):
    with pytest.raises(ValueError, match=message):
        load_tokenizer(make("tokenizer.json", **fields))


@pytest.mark.parametrize(
    "file, data, message",
    [
        ("tokenizer.json", b"{", "not a usable tokenizer.json"),
        ("tokenizer.json", b"\xff", "not a usable tokenizer.json"),
        ("tokenizer_config.json", b"{", "not JSON"),
        ("tokenizer_config.json", b"[]", "expected a JSON object"),
        ("tokenizer_config.json", b"\xff", "utf-8"),
        ("tokenizer_config.json", b"[" * 200_000, "recursion"),
        ("tokenizer_config.json", b'{"a":' * 200_000, "recursion"),
        ("tokenizer.json", b'{"model":' + b"[" * 200_000, "not a usable tokenizer.json"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("config.json", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("added_tokens.json", b"[]", "expected a JSON object"),
        ("chat_template.jinja", b"{{", "Syntax"),
        ("generation_config.json", b'{"eos_token_id": [1, "2"]}', "eos_token_id.*'2'"),
        ("config.json", b'{"eos_token_id": [1, "2"]}', "eos_token_id.*'2'"),
        ("generation_config.json", b'{"eos_token_id": true}', "eos_token_id.*True"),
        ("generation_config.json", b'{"eos_token_id": 100000}', "eos_token_id.*100000"),
    ],
)
def test_unusable_files_are_named(make, file, data, message):
    folder = make("tokenizer.json", V3)
    (folder / file).write_bytes(data)
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        load_tokenizer(folder)


def test_a_home_folder_is_expanded(make, monkeypatch):
    folder = make("tokenizer.json", V3)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_tokenizer(f"~/{folder.name}").chat(TURNS) == load_tokenizer(folder).chat(TURNS)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*tokenizer.model"):
        load_tokenizer(tmp_path)


# --- Real vocabularies ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    loaded = {}
    for name, file, template in (
        ("gemma2", "tokenizer.model", GEMMA),
        ("deepseek_llm", "tokenizer.json", V2),
    ):
        source = shared_data / "tokenizers" / name / file
        if not source.exists():
            pytest.skip(f"no {source}")
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(source, folder)
        (folder / "chat_template.jinja").write_text(template)
        loaded[name] = load_tokenizer(folder)
    return loaded


@pytest.fixture(scope="module")
def real_texts(shared_data):
    texts = []
    for path in sorted((shared_data / "llmbar" / "LLMBar").rglob("dataset.json")):
        for row in json.loads(path.read_text())[:20]:
            texts += [row["input"], row["output_1"], row["output_2"]]
    for path in sorted((shared_data / "judgebench").glob("*.jsonl")):
        with path.open() as lines:
            for _, line in zip(range(40), lines, strict=False):
                row = json.loads(line)
                texts += [row["question"], row["response_A"], row["response_B"]]
    if len(texts) < 200:
        pytest.skip("no rows of LLMBar and JudgeBench")
    return texts


@pytest.mark.parametrize("name", ["gemma2", "deepseek_llm"])
def test_real_rows_survive(real, real_texts, name):
    tokenizer = real[name]
    for text in real_texts:
        if name == "gemma2":
            text = text.replace("▁", "_").strip()  # the known loss, and what the template trims
        assert tokenizer.decode(tokenizer.encode(text)) == text
        ids = tokenizer.chat([Message("user", text)])
        assert text in tokenizer.decode(ids)
        assert ids.count(tokenizer.bos_id) == 1 and tokenizer.eos_id not in ids


def test_real_templated_ids(real):
    gemma, deepseek = real["gemma2"], real["deepseek_llm"]
    assert (gemma.bos_id, gemma.pad_id, gemma.stop_ids) == (2, 0, (1, 107))
    user = [2, 106, *gemma.encode("user\nThe cat"), 107, 108]
    assert gemma.chat(TURNS[:1]) == [*user, 106, *gemma.encode("model\n")]
    assert (deepseek.bos_id, deepseek.pad_id, deepseek.stop_ids) == (100000, 100001, (100001,))
    assert deepseek.chat(TURNS[:1]) == [100000, *deepseek.encode("User: The cat\n\nAssistant:")]
