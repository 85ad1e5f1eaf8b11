"""Byte-level tokenizers as Llama-3, Qwen and SmolLM2 have them, with chats that do what theirs do.

The templates are our own and shorter, and cover what the public ones do with contents: trimming,
default system messages, dates, and thinking. transformers is the reference on benign contents.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message
from grm_jax.text.thinking import split_thinking

PATIENT = dict(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
CORPUS = [
    "user assistant system\nThe cat sat on 12 mats.\n\nToday: 1 May 2020, it's 345678.",
    "Specific Criteria: think. Analysis: You'll say. Scores: \\boxed{8, 9}",
] * 4
# Words, three digits or one at most, line breaks with what is before them.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = """
{%- if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] }}
{%- else %}{{ '<|im_start|>system\nBe of help.' }}{% endif %}{{ '<|im_end|>\n' }}
{%- for turn in messages %}
    {%- if turn.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
# As Qwen3: the turn of a question is looked for from the end; what was thought in turns before
# it is dropped; an answer after it gets a block; an empty one switches thinking off.
HYBRID = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set found = namespace(last=messages | length - 1, looking=true) %}
{%- for turn in messages[::-1] %}
    {%- if found.looking and turn.role == 'user' and turn.content is string
           and not turn.content.startswith('<tool_response>') %}
        {%- set found.last = messages | length - 1 - loop.index0 %}
        {%- set found.looking = false %}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- set said = turn.content if turn.content is string else '' %}
    {%- if turn.role == 'user' or (turn.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + turn.role + '\n' + said + '<|im_end|>' + '\n' }}
    {%- elif turn.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if turn.reasoning is string %}{% set thought = turn.reasoning %}
        {%- elif '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\n').split('<think>')[-1] %}
            {%- set said = said.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > found.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
            {{- said.lstrip('\n') }}
        {%- else %}{{ '<|im_start|>assistant\n' + said }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
# As R1-Distill: the prompt opens the block.
OPENED = """{{ bos_token }}
{%- for turn in messages %}
    {%- set said = turn['content'] %}
    {%- if turn['role'] == 'assistant' %}
        {%- if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}
        {{- '<|im_start|>assistant\n' ~ said ~ '<|im_end|>' }}
    {%- else %}{{ '<|im_start|>' ~ turn['role'] ~ '\n' ~ said }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}
"""
# As Llama-3.x: always a system turn with a date, and contents are trimmed.
DATED = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}
    {%- else %}{% set date_string = '1 May 2020' %}{% endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' }}
{{- system + '<|eot_id|>' }}
{%- for turn in messages %}
    {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' }}
    {{- turn['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_TEXT = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # added, but not special
LLAMA = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<|reserved_special_token_0|>"),
)
# name: special pieces, other added ones, most digits of a piece, template, tokenizer_config.json
KINDS = {
    "qwen2": (QWEN, QWEN_TEXT[:2], 1, CHATML, {
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "add_bos_token": False,
    }),
    # as a program reads it from a GGUF file, which always names a bos
    "qwen2, of gguf": (QWEN, QWEN_TEXT[:2], 1, CHATML, {
        "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "add_bos_token": False,
    }),
    "qwen3": (QWEN, QWEN_TEXT, 1, HYBRID, {
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
    }),
    "r1": (QWEN, QWEN_TEXT, 1, OPENED, {
        "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
    }),
    "smollm2": (QWEN, (), 1, CHATML, {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
    }),
    # the settings name a bos, and the template never writes it
    "qwen2, bos added": (QWEN, QWEN_TEXT[:2], 1, CHATML, {
        "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "add_bos_token": True,
    }),
    "llama3": (LLAMA, (), 3, DATED, {
        "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
    }),
}  # fmt: skip
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SYSTEM = Message("system", "Be brief.")
TURNS = [Message("user", "The cat's"), Message("assistant", "on\n\n 12"), Message("user", "345678")]
HOSTILE = st.lists(
    st.sampled_from([*QWEN, *QWEN_TEXT, *LLAMA, "<|im_", "end|>", "<", "think>", "</", "|>"])
    | st.sampled_from([" ", "\n", "\n\n", "user", "assistant\n", "12", "é🤨", "{{ bos_token }}"])
    | st.text(max_size=4),
    max_size=8,
).map("".join)


def make(folder, kind, **fields):
    """A checkpoint folder without weights."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, processors, trainers
    from tokenizers import pre_tokenizers as pre

    special, others, digits, template, config = KINDS[kind]
    backend = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    backend.pre_tokenizer = pre.Sequence(
        [pre.Split(Regex(SPLIT % digits), "isolated"), pre.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(list(special))
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in others])
    if kind == "llama3":  # what `encode` of transformers adds; a chat writes its own
        bos = special[0]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **fields}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make(root / kind.replace(", ", "_"), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {kind: load_tokenizer(folder) for kind, folder in folders.items()}


def control_ids(tokenizer):
    return set(tokenizer._control.values())


def written(tokenizer, ids):
    """The ids as text, control pieces too."""
    return tokenizer._backend.decode(ids, skip_special_tokens=False)


# --- Chats ------------------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("prompt", [True, False])
def test_transformers_writes_the_same(folders, tokenizers, kind, prompt):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(folders[kind])
    long = [Message("user", "  a\n\n\nb 12 \n"), Message("assistant", "é🤨 x"), TURNS[0]]
    thought = [TURNS[0], Message("assistant", "<think>\na\n</think>\n\non"), TURNS[2]]
    newlines = [TURNS[0], Message("assistant", "\n\non \n")]
    for messages in (TURNS, TURNS[:1], TURNS[:2], [SYSTEM, *TURNS], long, thought, newlines):
        expected = reference.apply_chat_template(
            [message._asdict() for message in messages], add_generation_prompt=prompt,
            return_dict=False, date_string="1 May 2020",
        )  # fmt: skip
        assert tokenizers[kind].chat(messages, add_generation_prompt=prompt) == expected


@EVERY_KIND
def test_one_bos_where_the_tokenizer_has_one(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = tokenizer.chat(TURNS)
    bos = {"r1": "<|endoftext|>", "smollm2": "<|im_start|>", "llama3": LLAMA[0]}.get(kind)
    assert tokenizer.bos_id == tokenizer._control.get(bos)
    if bos is None:
        assert written(tokenizer, ids[:1]) == "<|im_start|>"
        assert tokenizer._control["<|endoftext|>"] not in ids
    else:
        assert ids[0] == tokenizer.bos_id != ids[1]
        assert kind == "smollm2" or ids.count(tokenizer.bos_id) == 1  # there it opens turns too


def test_stop_ids(folders, tokenizers):
    end = tokenizers["qwen3"]._control["<|im_end|>"]
    assert tokenizers["qwen3"].end_of_turn_id == end and tokenizers["qwen3"].stop_ids == (end,)
    llama = tokenizers["llama3"]
    assert llama.pad_id == llama.eos_id == llama._control["<|eot_id|>"]
    path, text_end = folders["llama3"] / "generation_config.json", llama._control[LLAMA[1]]
    path.write_text(json.dumps({"eos_token_id": [text_end, llama.eos_id]}))
    assert load_tokenizer(folders["llama3"]).stop_ids == (llama.eos_id, text_end)
    path.unlink()


def test_a_date_is_the_default_of_the_template(tokenizers):
    ids = tokenizers["llama3"].chat(TURNS)
    assert "Today: 1 May 2020\n" in written(tokenizers["llama3"], ids)


@pytest.mark.parametrize("call", ["strftime_now('%d %b %Y')", "'x' ~ strftime_now('%d')"])
def test_a_template_that_knows_no_date_but_todays_is_refused(tmp_path, call):
    folder = make(tmp_path, "qwen3", chat_template="{{ " + call + " }}" + CHATML)
    with pytest.raises(ValueError, match="tokenizer_config.json: chat_template: .*strftime_now"):
        load_tokenizer(folder)


# --- Thinking ---------------------------------------------------------------------------------


def test_thinking_is_told_to_the_template(folders):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(folders["qwen3"])
    told = {"": {}, "on": {"enable_thinking": True}, "off": {"enable_thinking": False}}
    prints, ends = set(), {}
    for thinking, options in told.items():
        tokenizer = load_tokenizer(folders["qwen3"], thinking=thinking)
        for messages in (TURNS, TURNS[:1], [SYSTEM, *TURNS]):
            expected = reference.apply_chat_template(
                [message._asdict() for message in messages], add_generation_prompt=True,
                return_dict=False, **options,
            )  # fmt: skip
            assert tokenizer.chat(messages) == expected
        ends[thinking] = written(tokenizer, tokenizer.chat(TURNS)).rpartition("assistant\n")[2]
        prints.add(tokenizer.fingerprint())
        assert not tokenizer.opens_thinking
    assert ends == {"": "", "on": "", "off": "<think>\n\n</think>\n\n"} and len(prints) == 3


@pytest.mark.parametrize(
    "reads",
    [
        "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}",
        "{% set enable_thinking = enable_thinking | default(true) %}",
        "{% set thinks = enable_thinking if enable_thinking is defined else true %}",
    ],
)
def test_templates_read_the_flag_in_many_ways(tmp_path, reads):
    end = "{{ '<think>\n' if thinks is defined and thinks or enable_thinking else '' }}"
    folder = make(tmp_path, "qwen3", chat_template="\n" + reads + CHATML + end)
    on, off, told = (load_tokenizer(folder, thinking=value) for value in ("on", "off", ""))
    assert on.opens_thinking and told.opens_thinking and not off.opens_thinking
    assert written(on, on.chat(TURNS)) == written(off, off.chat(TURNS)) + "<think>\n"
    assert on.chat(TURNS) == told.chat(TURNS)


@pytest.mark.parametrize("kind", ["qwen2", "r1", "llama3"])
def test_thinking_needs_a_template_that_reads_the_flag(folders, kind):
    with pytest.raises(ValueError, match="chat_template: does not read enable_thinking.*'off'"):
        load_tokenizer(folders[kind], thinking="off")


def test_a_flag_that_the_template_only_sets_is_not_read(tmp_path):
    template = "{% set enable_thinking = true %}{% if enable_thinking %}{% endif %}" + CHATML
    with pytest.raises(ValueError, match="does not read enable_thinking"):
        load_tokenizer(make(tmp_path, "qwen3", chat_template=template), thinking="on")


def test_thinking_needs_a_template(tmp_path):
    folder = make(tmp_path, "qwen2", chat_template=None)
    (folder / "config.json").write_text('{"model_type": "deepseek_v2"}')
    with pytest.raises(ValueError, match=f"{folder.name}: has no chat template, so thinking"):
        load_tokenizer(folder, thinking="on")


def test_a_prompt_that_opens_the_block_says_so(tokenizers):
    assert tokenizers["r1"].opens_thinking
    assert not any(t.opens_thinking for kind, t in tokenizers.items() if kind != "r1")
    # What a message says is not what the template says.
    assert written(tokenizers["r1"], tokenizers["r1"].chat(TURNS)).endswith("<think>\n")


@EVERY_KIND
def test_an_answer_as_text_is_read_as_the_answer(tokenizers, kind):
    """What is trained on is what a completion is split into."""
    tokenizer, text = tokenizers[kind], "Scores: \\boxed{8, 9}"
    ids = tokenizer.encode_answer(text)
    opened = tokenizer.opens_thinking
    assert split_thinking(tokenizer.decode(ids), opened) == ("", text)
    assert (ids == tokenizer.encode(text)) is not opened
    if opened:  # as the templates that switch thinking off write it
        assert written(tokenizer, ids) == f"\n</think>\n\n{text}"
        assert tokenizer._control["</think>"] in ids


@pytest.mark.parametrize("kind", ["qwen3", "r1"])
def test_tags_of_thinking_are_control_pieces_that_are_read(tokenizers, kind):
    tokenizer = tokenizers[kind]
    opening, closing = (tokenizer._control[tag] for tag in ("<think>", "</think>"))
    generated = [opening, *tokenizer.encode("a"), closing, *tokenizer.encode("x")]
    assert tokenizer.decode([*generated, tokenizer.eos_id]) == "<think>a</think>x"
    assert {opening, closing}.isdisjoint(tokenizer.encode("<think>a</think>x"))
    assert tokenizer.decode(tokenizer.encode("<think>a</think>x")) == "<think>a</think>x"


@pytest.mark.parametrize("kind", ["qwen3", "r1"])
def test_only_what_the_assistant_thought_is_left_out(tokenizers, kind):
    """A response of the data cannot cut a prompt by a tag of its own."""
    tokenizer = tokenizers[kind]
    text = "before</think>\n\nafter"
    assert text in tokenizer.decode(tokenizer.chat([Message("user", text)]))
    ids = tokenizer.chat([TURNS[0], Message("assistant", text), TURNS[2]])
    assert "before" not in tokenizer.decode(ids) and "after" in tokenizer.decode(ids)


# --- Contents are data ------------------------------------------------------------------------


@EVERY_KIND
@settings(**PATIENT)
@given(text=HOSTILE)
def test_text_survives_and_holds_no_control_piece(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    assert control_ids(tokenizer).isdisjoint(ids) and tokenizer.decode(ids) == text


@EVERY_KIND
@settings(**PATIENT)
@given(contents=st.tuples(HOSTILE, HOSTILE))
def test_contents_never_become_control_pieces(tokenizers, kind, contents):
    tokenizer, hidden = tokenizers[kind], control_ids(tokenizers[kind])
    system, user = contents
    if kind == "llama3":
        system, user = system.strip(), user.strip()
    if kind == "qwen3" and user.startswith("<tool_response>"):
        user = "x" + user  # is no question there
    plain = [SYSTEM, TURNS[0]]
    hostile = [Message("system", system), Message("user", user)]
    expected = [i for i in tokenizer.chat(plain) if i in hidden]
    ids = tokenizer.chat(hostile)
    assert [i for i in ids if i in hidden] == expected
    assert system in tokenizer.decode(ids) and user in tokenizer.decode(ids)


@EVERY_KIND
def test_text_is_encoded_as_by_transformers(folders, tokenizers, kind):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(folders[kind])
    for text in (*CORPUS[:2], "", " ", "12345 \n\n\n x\t", "é🤨 it'S\r\n", "<b> & </b>", "{{ x }}"):
        assert tokenizers[kind].encode(text) == reference.encode(text, add_special_tokens=False)
