"""Arguments that llama.cpp would end the process over: each gets one clear error."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from llama_cpp import LlamaGrammar, LlamaState, LogitsProcessorList

from conftest import TinyFiles
from retain_local import RetainError, UsageError
from support.llamas import greedy, load, prompt, text
from support.tiny_models import TINY_MODELS


def small(tiny: TinyFiles, **options):
    return load(tiny.model("llama"), **({"policy": "window", "budget": 64} | options))


@pytest.mark.parametrize("wrong", [-1, -(2**31), 10**6, 2**31, 2**40, 1.5, "a", None])
@pytest.mark.parametrize(
    "use",
    [
        lambda llm, tokens: llm.detokenize(tokens),
        lambda llm, tokens: llm.eval(tokens),
        lambda llm, tokens: next(llm.generate(tokens)),
        lambda llm, tokens: llm(tokens, max_tokens=1),
        lambda llm, tokens: llm(np.array(tokens, object), max_tokens=1),
    ],
)
def test_tokens_that_the_model_does_not_have(tiny: TinyFiles, use, wrong) -> None:
    llm = small(tiny)
    good = prompt(llm, 20)
    llm.eval(good)
    with pytest.raises(UsageError, match=r"is not a token of this model, whose tokens are 0 to \d+"):
        use(llm, [*good, wrong])
    assert llm.n_tokens == 20


def test_tokens_may_be_of_numpy(tiny: TinyFiles) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 20)
    text_of_list = llm(tokens, max_tokens=4, temperature=0.0)["choices"]
    assert llm(np.array(tokens), max_tokens=4, temperature=0.0)["choices"] == text_of_list
    assert llm.detokenize(np.array(tokens)) == llm.detokenize(tokens)


def test_a_prompt_of_nothing(tiny: TinyFiles) -> None:
    llm = small(tiny)
    for use in (lambda: next(llm.generate([])), lambda: llm([], max_tokens=1)):
        with pytest.raises(UsageError, match="the prompt is empty"):
            use()


def test_drawing_where_nothing_was_evaluated(tiny: TinyFiles) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 20)
    for prepare in (
        lambda: None,
        lambda: (llm.eval(tokens), llm.reset()),
        lambda: (llm.eval(tokens), llm.load_state(llm.save_state())),
    ):
        prepare()
        with pytest.raises(UsageError, match="no logits to draw a token from"):
            llm.sample()
    llm.reset()
    llm.eval(tokens)
    for idx in (-1, 0, 18, 20, 10**6):
        with pytest.raises(UsageError, match="no logits to draw a token from"):
            llm.sample(idx=idx)
    assert llm.sample(idx=19, temp=0.0) == llm.sample(temp=0.0)


def test_drawing_after_an_evaluation_that_failed(tiny: TinyFiles) -> None:
    llm = small(tiny, policy="none", budget=40)
    llm.eval(prompt(llm, 30))
    with pytest.raises(RetainError):
        llm.eval(prompt(llm, 60))
    try:
        llm.sample()
    except UsageError as error:
        assert "no logits" in str(error)


def test_drawing_anywhere_with_all_logits(tiny: TinyFiles) -> None:
    llm = small(tiny, logits_all=True)
    tokens = prompt(llm, 20)
    llm.eval(tokens)
    assert [llm.sample(idx=i, temp=0.0) for i in range(20)] == llm.scores[:20].argmax(1).tolist()


@pytest.mark.parametrize(
    "grammar, reason",
    [
        ("root ::= (((", "the grammar is not valid"),
        ('foo ::= "a"', "the grammar is not valid: .*root"),
        ('root ::= root "a"', "the grammar is not valid: .*left recursion"),
        ('root ::= foo "a"', "the grammar is not valid"),
        ("root ::= " + "(" * 100, "the grammar is not valid"),
        ("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, "groups in groups 20000 deep"),
        ("".join(f"r{i} ::= r{i + 1}\n" for i in range(100_000)) + "root ::= r0", "has 100001 rules"),
        ("root ::= <[99999999]>", "the grammar names the token 99999999"),
        ('root ::= "\ud800"', "the grammar is not text"),
        ("", "the grammar is empty"),
        ("  \n", "the grammar is empty"),
    ],
)
def test_grammars_that_are_none(tiny: TinyFiles, grammar: str, reason: str) -> None:
    llm = small(tiny)
    llm.eval(prompt(llm, 5))
    for use in (
        lambda **options: llm(text(9), max_tokens=2, **options),
        lambda **options: list(llm(text(9), max_tokens=2, stream=True, **options)),
        lambda **options: llm.sample(**options),
    ):
        with pytest.raises(UsageError, match=reason):
            use(grammar=LlamaGrammar.from_string(grammar))


def test_a_grammar_that_is_text(tiny: TinyFiles) -> None:
    with pytest.raises(UsageError, match="must be a LlamaGrammar"):
        small(tiny)(text(9), max_tokens=2, grammar='root ::= "a"')


def test_a_grammar_that_is_one(tiny: TinyFiles) -> None:
    llm = small(tiny)
    brackets = "(" * 600  # in a comment and in a string they are no groups
    for grammar, texts in (
        ('root ::= "abc" "d"?', ("abc", "abcd")),
        ("root ::= " + "(" * 400 + '"ab"' + ")" * 400, ("ab",)),
        (f'root ::= "ab" # {brackets}', ("ab",)),
        (f'root ::= "{brackets}" | [((]', ("(", "(" * 9)),
        ("root ::= <[300]>", (llm.detokenize([300]).decode(),)),
    ):
        reply = llm(text(9), max_tokens=9, grammar=LlamaGrammar.from_string(grammar))["choices"][0]["text"]
        assert reply in texts


def test_a_grammar_whose_tokens_a_processor_forbids(tiny: TinyFiles) -> None:
    llm = small(tiny)
    b = [token for token in range(llm.n_vocab()) if llm.detokenize([token]) == b"b"]  # a piece and a byte

    def no_b(_tokens, logits):
        logits[b] = -np.inf
        return logits

    grammar = LlamaGrammar.from_string('root ::= "abc" | "adc"')
    options = {"grammar": grammar, "logits_processor": LogitsProcessorList([no_b])}
    assert llm(text(9), max_tokens=9, **options)["choices"][0]["text"] == "adc"
    options["grammar"] = LlamaGrammar.from_string('root ::= "abc"')
    with pytest.raises(UsageError, match="no token that the grammar allows"):
        llm(text(9), max_tokens=9, **options)
    assert llm(text(9), max_tokens=2)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"response_format": {"type": "json_object", "schema": {"$ref": "#/nowhere"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": {"$ref": "#/nowhere"}}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/nowhere"}}}]},
    ],
)
def test_a_schema_that_has_no_grammar(tiny: TinyFiles, options) -> None:
    with pytest.raises(UsageError, match="cannot be followed"):
        small(tiny).create_chat_completion([{"role": "user", "content": "abc"}], max_tokens=2, **options)


def test_a_response_format_that_is_not_known(tiny: TinyFiles) -> None:
    with pytest.raises(UsageError, match="response format 'xml' is not one of text, json_object, json_schema"):
        small(tiny).create_chat_completion([{"role": "user", "content": "abc"}], response_format={"type": "xml"})


@pytest.mark.parametrize("form", ["json_object", "json_schema"])
def test_a_schema_is_followed_in_both_forms(tiny: TinyFiles, form: str) -> None:
    schema = {"enum": ["yes", "no"]}
    response_format = {
        "json_object": {"type": form, "schema": schema},
        "json_schema": {"type": form, "json_schema": {"name": "answer", "schema": schema}},
    }[form]
    reply = small(tiny).create_chat_completion(
        [{"role": "user", "content": "abc"}], max_tokens=12, response_format=response_format
    )
    assert reply["choices"][0]["message"]["content"].strip() in ('"yes"', '"no"')


@pytest.mark.parametrize("make", [lambda state: 5, lambda state: None, lambda state: LlamaState(**plain_fields(state))])
def test_a_state_that_is_none_of_ours(tiny: TinyFiles, make) -> None:
    llm = small(tiny)
    with pytest.raises(UsageError, match="load_state takes what save_state returned, not "):
        llm.load_state(make(llm.save_state()))


def plain_fields(state):
    names = ("input_ids", "scores", "n_tokens", "llama_state", "llama_state_size", "seed")
    return {name: getattr(state, name) for name in names}


def write_lora(path: Path, n_columns: int, n_rows: int, arch: str = "llama") -> Path:
    """A LoRA of rank 2 for the output projections of attention, which have n_rows rows."""
    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    for il in range(TINY_MODELS["llama"].n_layer):
        writer.add_tensor(f"blk.{il}.attn_output.weight.lora_a", rng.normal(size=(2, n_columns)).astype(np.float32))
        writer.add_tensor(f"blk.{il}.attn_output.weight.lora_b", rng.normal(size=(n_rows, 2)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_loras_that_do_not_fit(tiny: TinyFiles, tmp_path: Path) -> None:
    model = TINY_MODELS["llama"]
    n_columns, n_rows = model.n_head * model.head_size, model.n_embd
    for lora, reason in (
        (tmp_path / "absent.gguf", "No such file"),
        (tiny.model("llama"), "adapter"),
        (write_lora(tmp_path / "wide.gguf", 2 * n_columns, 2 * n_rows), "wrong base model"),
        (write_lora(tmp_path / "arch.gguf", n_columns, n_rows, arch="qwen3"), "arch"),
    ):
        with pytest.raises(RetainError, match=f"the LoRA .*{lora.name} cannot be used: .*{reason}"):
            small(tiny, lora_path=str(lora))


def test_a_lora_that_fits_changes_the_text(tiny: TinyFiles, tmp_path: Path) -> None:
    model = TINY_MODELS["llama"]
    lora = write_lora(tmp_path / "lora.gguf", model.n_head * model.head_size, model.n_embd)
    plain, adapted = small(tiny), small(tiny, lora_path=str(lora))
    without = small(tiny, lora_path=str(lora), lora_scale=0.0)
    tokens = prompt(plain, 40)
    assert greedy(without, tokens, 20) == greedy(plain, tokens, 20) != greedy(adapted, tokens, 20)
