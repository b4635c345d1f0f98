"""Clients that nobody here wrote, from the package index, against the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from retain_local.server import Server
from support.servers import KEY

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
GREEDY = {"temperature": 0}  # the client of Anthropic's newest models has no such argument
MODEL = "SmolLM2-135M-Instruct.Q4_1"


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def claude(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0)


def test_openai_chat(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    reply = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, temperature=0)
    assert "Paris" in (reply.choices[0].message.content or "")
    assert reply.usage is not None and reply.usage.prompt_tokens > 10
    kept = reply.usage.model_extra["retention"]
    assert kept["tokens_seen"] == reply.usage.prompt_tokens + reply.usage.completion_tokens - 1
    assert kept["cells"] == kept["cells_seen"] and not kept["beyond_trained_context"]


def test_openai_streaming_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    usage = chunks[-1].usage
    assert usage is not None and usage.model_extra["retention"]["tokens_seen"] == usage.total_tokens - 1


def test_openai_tools(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": WEATHER}}
    messages: list[dict[str, Any]] = []
    for city in ("London", "Rome"):  # a model this small calls what it saw being called
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "tool_calls": [{"id": city, "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": city, "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ]
    messages.append({"role": "user", "content": "What is the weather in Paris?"})
    reply = client.chat.completions.create(model=MODEL, messages=messages, tools=[tool], max_tokens=40, temperature=0)
    assert reply.choices[0].finish_reason == "tool_calls"
    call = reply.choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Paris"}


def test_openai_json_schema(client: openai.OpenAI) -> None:
    class City(BaseModel):
        name: str
        is_capital: bool

    reply = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=City, max_tokens=64, temperature=0
    )
    assert isinstance(reply.choices[0].message.parsed, City)


def test_openai_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == 4 and all(len(one.top_logprobs) == 3 and one.logprob <= 0 for one in content)


def test_openai_responses(client: openai.OpenAI) -> None:
    reply = client.responses.create(
        model=MODEL, input="What is the capital of France?", temperature=0, max_output_tokens=24
    )
    assert "Paris" in reply.output_text


def test_openai_embeddings_are_refused_in_one_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="embeddings"):
        client.embeddings.create(model=MODEL, input="a text")


def test_openai_wrong_key(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="another", max_retries=0).models.list()


def test_openai_wrong_settings(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"retention\.budget must be a whole number from 5 to 256"):
        client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body={"retention": {"budget": 257}})


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    reply = claude.messages.create(model=MODEL, messages=QUESTION, max_tokens=24, extra_body=GREEDY)
    assert "Paris" in reply.content[0].text and reply.stop_reason in ("end_turn", "max_tokens")
    assert reply.usage.model_extra["retention"]["budget"] == 256


def test_anthropic_streaming(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model=MODEL, messages=QUESTION, max_tokens=24, extra_body=GREEDY) as stream:
        assert "Paris" in "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens > 0


def test_anthropic_tools(claude: anthropic.Anthropic) -> None:
    tool = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
    messages: list[dict[str, Any]] = []
    for city in ("London", "Rome"):
        use = {"type": "tool_use", "id": city, "name": "weather", "input": {"city": city}}
        result = {"type": "tool_result", "tool_use_id": city, "content": "sunny"}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": "It is sunny."},
        ]
    messages.append({"role": "user", "content": "What is the weather in Paris?"})
    reply = claude.messages.create(model=MODEL, messages=messages, tools=[tool], max_tokens=40, extra_body=GREEDY)
    assert reply.stop_reason == "tool_use"
    call = next(block for block in reply.content if block.type == "tool_use")
    assert call.name == "weather" and call.input == {"city": "Paris"}


def test_anthropic_counts_tokens(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens
    reply = claude.messages.create(model=MODEL, messages=QUESTION, max_tokens=1)
    assert counted == reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0)


def test_anthropic_settings(claude: anthropic.Anthropic) -> None:
    reply = claude.messages.create(
        model=MODEL, messages=QUESTION, max_tokens=4, extra_body={"retention": {"budget": 128, "pins": [[0, 8]]}}
    )
    assert reply.usage.model_extra["retention"]["budget"] == 128


def test_langchain(server: Server) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=f"{server.url}/v1", api_key=KEY, model=MODEL, temperature=0, max_tokens=24)
    assert "Paris" in model.invoke("What is the capital of France?").text
    assert "Paris" in "".join(chunk.text for chunk in model.stream("What is the capital of France?"))


def test_llama_index(server: Server) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        api_base=f"{server.url}/v1", api_key=KEY, model=MODEL, is_chat_model=True, temperature=0, max_tokens=24
    )
    messages = [ChatMessage(role="user", content="What is the capital of France?")]
    assert "Paris" in str(model.chat(messages))
    assert "Paris" in [str(part.message.content) for part in model.stream_chat(messages)][-1]


def test_llm(server: Server, tmp_path: Path) -> None:
    """The command `llm`, with the model that its documentation of OpenAI-compatible servers shows how to add."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f'- model_id: local\n  model_name: {MODEL}\n  api_base: "{server.url}/v1"\n  api_key_name: local\n'
    )
    (tmp_path / "keys.json").write_text(json.dumps({"local": KEY}))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "llm",
            "-m",
            "local",
            "-o",
            "temperature",
            "0",
            "-o",
            "max_tokens",
            "24",
            QUESTION[0]["content"],
        ],
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "Paris" in done.stdout, done.stderr
