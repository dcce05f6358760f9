"""One identity for every spelling of a model, and no price of one model for another."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from taximeter.meter.pricing import Price, Pricer, UnpricedModel
from taximeter.meter.pricing.identity import Identity, host_of, identify
from taximeter.meter.pricing.lists import corrections
from taximeter.meter.pricing.published import PublishedPrices

MILLION = {"prompt_tokens": 10**6, "completion_tokens": 0}
PRICER = Pricer()


@pytest.mark.parametrize(
    ("name", "provider", "identity"),
    [
        ("gpt-4o", None, "gpt-4o"),
        ("OpenAI/GPT-4o", None, "openai/gpt-4o"),
        ("gpt-4o", "openai", "openai/gpt-4o"),
        ("openai/gpt-4o", "openai", "openai/gpt-4o"),
        ("openai/responses/gpt-5", None, "openai/gpt-5"),
        ("openai/gpt-oss-120b", "groq", "groq/openai/gpt-oss-120b"),
        ("groq/openai/gpt-oss-120b", None, "groq/openai/gpt-oss-120b"),
        ("together_ai/openai/gpt-oss-20b", None, "together/openai/gpt-oss-20b"),
        ("openrouter/openai/gpt-4o", None, "openrouter/openai/gpt-4o"),
        ("xai/grok-4", None, "x-ai/grok-4"),
        ("grok-4", "xai", "x-ai/grok-4"),
        ("gemini/gemini-2.5-pro", None, "google/gemini-2.5-pro"),
        ("vertex_ai/gemini-2.5-pro", None, "vertex/gemini-2.5-pro"),
        ("gemini-2.5-pro", "vertex_ai-language-models", "vertex/gemini-2.5-pro"),
        ("claude-3-5-haiku@20241022", None, "vertex/claude-3-5-haiku@20241022"),
        ("azure/eu/gpt-4o", None, "azure/eu/gpt-4o"),
        ("azure/global-standard/gpt-4o", None, "azure/gpt-4o"),
        ("bedrock/converse/us.meta.llama3-2-1b-v1:0", None, "aws/us.meta.llama3-2-1b-v1:0"),
        (
            "bedrock/us-gov-west-1/anthropic.claude-v2:1",
            None,
            "aws/us-gov-west-1/anthropic.claude-v2:1",
        ),
        ("anthropic.claude-v2:1", None, "aws/anthropic.claude-v2:1"),
        ("us.anthropic.claude-sonnet-4-6", None, "aws/us.anthropic.claude-sonnet-4-6"),
        ("somebody/gpt-4o", None, "somebody/gpt-4o"),
        ("gpt-4o", "somebody", "somebody/gpt-4o"),
        ("openai/", None, "openai/"),
        ("/", None, "/"),
        ("", None, ""),
    ],
)
def test_identity(name: str, provider: str | None, identity: str) -> None:
    found = identify(name, provider)
    assert str(found) == identity
    assert identify(str(found)) == found or found.provider not in {"openai", "azure", "aws"}


def test_a_host_has_one_id() -> None:
    assert {host_of(name) for name in ("bedrock", "bedrock_converse", "AWS")} == {"aws"}
    assert host_of("vertex_ai-anthropic_models") == "vertex"
    assert host_of("Somebody-New") == "somebody-new"


@pytest.mark.parametrize(
    "name",
    [
        "gemini-2.5-pro-ultra",  # Sounds like gemini-2.5-pro.
        "deepseek-r1-distill-llama-70b",  # A smaller model, taught by deepseek-r1.
        "sambanova/DeepSeek-R1",  # Hosts whose prices nobody here knows.
        "kyma/gpt-4o",
        "kyma/claude-3-haiku",
        "gpt-4o-turbo-ultra",
        "ft:gpt-4.1-2025-04-14:acme::x1",
        "gpt-oss-120b",  # Its maker sells it to nobody.
        "azure_ai/gpt-oss-120b",
        "bedrock/us-gov-west-1/anthropic.claude-3-haiku-20240307-v1:0",  # Costs more there.
        "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "eu.amazon.nova-lite-v1:0",
        "claude-sonnet-4-mini",
        "my-claude-opus-4-5",
    ],
)
def test_no_price_is_borrowed(name: str) -> None:
    with pytest.raises(UnpricedModel, match="has no known price"):
        PRICER.price(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("gemini-2.5-pro-ultra", "google/gemini-2.5-pro"),
        ("deepseek-r1-distill-llama-70b", "deepseek/deepseek-reasoner"),
        ("ft:gpt-4.1-2025-04-14:acme::x1", "openai/ft:gpt-4o"),
        ("kyma/gpt-4o", "openai/gpt-4o"),
        ("kyma/claude-3-haiku", "anthropic/claude-3-haiku"),
        ("sambanova/DeepSeek-R1", "fireworks/deepseek-r1-0528"),
        ("sambanova/DeepSeek-R1-Distill-Llama-70B", "groq/deepseek-r1-distill-llama-70b"),
        ("gpt-image-2.6-sunburst", "openai/gpt-image-2.5-sunburst"),
        ("gemini/gemini-3.8-live-extended-thinking", "google/gemini-3.8-live"),
        ("us-gov.amazon.nova-pro-v1:0", "aws/amazon.nova-pro-v1:0"),
    ],
)
def test_a_refusal_has_the_nearest_names(name: str, near: str) -> None:
    with pytest.raises(UnpricedModel) as refusal:
        PRICER.price(name)
    assert near in refusal.value.near, refusal.value.near


@pytest.mark.parametrize(
    ("name", "input_usd", "output_usd"),
    [
        ("mistral-large-latest", "0.5", "1.5"),
        ("grok-code-fast-1", "1", "2"),
        ("xai/grok-code-fast-1", "1", "2"),
        ("vertex_ai/gemini-2.0-flash", "0.15", "0.6"),
        ("vertex_ai/claude-3-5-haiku@20241022", "0.8", "4"),
        ("vertex_ai/claude-3-haiku@20240307", "0.25", "1.25"),
        ("groq/deepseek-r1-distill-llama-70b", "0.75", "0.99"),
        ("ft:gpt-4o-2024-08-06:acme::x", "3.75", "15"),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", "0.3", "1.2"),
        ("ft:gpt-3.5-turbo-0613:acme::y", "3", "6"),
    ],
)
def test_names_that_once_meant_another_model(name: str, input_usd: str, output_usd: str) -> None:
    """Each was matched to a price that was stale or another one's."""
    price = PRICER.price(name)
    prompt = price.cost({"prompt_tokens": 100_000, "completion_tokens": 0})
    output = price.cost({"prompt_tokens": 0, "completion_tokens": 100_000})
    assert (prompt, output) == (Decimal(input_usd) * 10_000, Decimal(output_usd) * 10_000)


@pytest.mark.parametrize(
    "name",
    ["gemini/imagen-4.0-generate-001", "vertex_ai/imagen-4.0-ultra-generate-001", "dall-e-3"],
)
def test_images_sold_by_the_piece_wait_for_the_operators_price(name: str, tmp_path: Path) -> None:
    """The list has none of them; an import of LiteLLM's map does."""
    with pytest.raises(UnpricedModel, match="has no known price"):
        PRICER.price(name)
    assert (
        _with(tmp_path, f'"{name}" = {{ image = 0.04 }}').price(name).cost({"images": 3}) == 12_000
    )


def test_a_refusal_names_the_nearest() -> None:
    with pytest.raises(UnpricedModel) as refusal:
        PRICER.price("gemini-2.5-pro-ultra")
    assert "google/gemini-2.5-pro" in refusal.value.near
    assert "google/gemini-2.5-pro" in str(refusal.value)
    with pytest.raises(UnpricedModel) as refusal:
        PRICER.price("qqqqqq")
    assert refusal.value.near == ()


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", "us-gov"),
        ("bedrock/us-gov-west-1/anthropic.claude-3-haiku-20240307-v1:0", "us-gov-west-1"),
        ("bedrock/us-gov-east-1/amazon.nova-pro-v1:0", "us-gov-east-1"),
        ("bedrock/eu-west-1/amazon.nova-pro-v1:0", "eu-west-1"),
        ("azure/us-gov/gpt-5.1", "us-gov"),
        ("azure/us-gov/o3-mini", "us-gov"),
    ],
)
def test_a_refusal_names_the_region(name: str, region: str, tmp_path: Path) -> None:
    """What it costs there, no list of ours says; the operator's own file can."""
    with pytest.raises(UnpricedModel) as refusal:
        PRICER.price(name)
    assert f" In {region} it costs another price than elsewhere." in str(refusal.value)
    ours = _with(tmp_path, f'"{name}" = {{ input = 7, output = 7 }}')
    assert ours.price(name).cost(MILLION) == 700_000


@pytest.mark.parametrize(
    ("spellings", "provider"),
    [
        (("gpt-4o", "openai/gpt-4o", "OPENAI/gpt-4o", "openai/responses/gpt-4o"), "openai"),
        (("grok-4", "xai/grok-4", "x-ai/grok-4", "grok-4-latest", "grok-4-0709"), "x-ai"),
        (("deepseek-reasoner", "deepseek/deepseek-reasoner"), "deepseek"),
        (("gemini-1.5-pro", "gemini/gemini-1.5-pro-002", "gemini-1.5-pro-latest"), "google"),
        (
            ("claude-sonnet-4-0", "claude-sonnet-4-20250514", "anthropic/claude-sonnet-4-0"),
            "anthropic",
        ),
    ],
)
def test_every_spelling_costs_the_same(spellings: tuple[str, ...], provider: str) -> None:
    prices = [PRICER.price(one) for one in spellings]
    prices += [PRICER.price(one, provider=provider) for one in spellings]
    assert len({(one.parts, str(one.rates), one.source, one.provider) for one in prices}) == 1


@pytest.mark.parametrize(
    ("host", "input_usd"),
    [
        ("groq/openai/gpt-oss-120b", "0.15"),
        ("zai/glm-4.7", "0.6"),
        ("azure/gpt-4o", "2.5"),
        ("azure/eu/gpt-4o", "2.75"),
        ("azure/us/gpt-4o-audio-preview-2024-12-17", "2.75"),
        ("vertex_ai/claude-sonnet-4@20250514", "3"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "0.25"),
    ],
)
def test_the_price_is_that_of_the_host(host: str, input_usd: str) -> None:
    price = PRICER.price(host)
    assert price.cost({"prompt_tokens": 100_000, "completion_tokens": 0}) == (
        Decimal(input_usd) * 10_000
    )


def test_a_zone_costs_more_for_tokens_and_not_for_searches() -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "web_searches": 1000}
    here, there = (PRICER.price(name) for name in ("azure/eu/gpt-4o", "azure/gpt-4o"))
    assert here.cost(usage) == there.cost(usage) == 1_400_000


@pytest.mark.parametrize("key", ["gpt-4o", "openai/gpt-4o", "OpenAI/gpt-4o"])
@pytest.mark.parametrize("asked", ["gpt-4o", "openai/gpt-4o", "openai/responses/gpt-4o"])
def test_the_operators_file_knows_every_spelling(tmp_path: Path, key: str, asked: str) -> None:
    ours = _with(tmp_path, f'"{key}" = {{ input = 99, output = 99 }}')
    for provider in (None, "openai", "text-completion-openai"):
        price = ours.price(asked, provider=provider)
        assert (price.source, price.cost(MILLION)) == ("override", 9_900_000)


def test_an_imported_list_is_found_by_name_and_provider(tmp_path: Path) -> None:
    """A gateway may send the name as its list has it, or the host beside the bare name."""
    ours = _with(
        tmp_path,
        '"groq/openai/gpt-oss-120b" = { provider = "groq", input = 1, output = 1 }',
        '"azure/eu/gpt-4o" = { provider = "azure", input = 2, output = 1 }',
        '"xai/grok-9" = { provider = "xai", input = 3, output = 1 }',
        '"gemini-9" = { provider = "vertex_ai-language-models", input = 4, output = 1 }',
        '"vertex_ai/gemini-9-pro" = { provider = "vertex_ai", input = 5, output = 1 }',
        '"us.amazon.nova-9" = { provider = "bedrock_converse", input = 6, output = 1 }',
        '"newhost/model" = { provider = "newhost", input = 7, output = 1 }',
    )
    for place, spellings in enumerate(
        (
            (("groq/openai/gpt-oss-120b", None), ("openai/gpt-oss-120b", "groq")),
            (("azure/eu/gpt-4o", None), ("eu/gpt-4o", "azure")),
            (("xai/grok-9", None), ("grok-9", "xai"), ("x-ai/grok-9", None)),
            (("gemini-9", None), ("gemini-9", "vertex_ai"), ("vertex_ai/gemini-9", None)),
            (("vertex_ai/gemini-9-pro", None), ("gemini-9-pro", "vertex_ai")),
            (("us.amazon.nova-9", None), ("us.amazon.nova-9", "bedrock")),
            (("newhost/model", None), ("model", "newhost"), ("newhost/model", "newhost")),
        ),
        start=1,
    ):
        for name, provider in spellings:
            price = ours.price(name, provider=provider)
            assert (price.source, price.cost(MILLION)) == ("override", place * 100_000), name


def test_a_host_that_stands_in_front_of_its_own_models_twice() -> None:
    """Perplexity sells `sonar`, and by its agents `perplexity/sonar`, at another price."""
    sonar, by_agents = (
        PRICER.price(f"perplexity/{name}") for name in ("sonar", "perplexity/sonar")
    )
    assert sonar.rates != by_agents.rates
    assert PRICER.price("perplexity/perplexity/sonar", provider="perplexity").rates == (
        by_agents.rates
    )
    for name in ("kimi-k3", "perplexity/kimi-k3", "perplexity/perplexity/kimi-k3"):
        price = PRICER.price(name, provider="perplexity")
        assert (price.provider, price.cost(MILLION)) == ("perplexity", 300_000), name


def test_another_hosts_entry_is_not_taken(tmp_path: Path) -> None:
    ours = _with(tmp_path, '"groq/gpt-4o" = { input = 99, output = 99 }')
    assert ours.price("gpt-4o").source == "genai-prices"
    assert ours.price("azure/gpt-4o").source == "genai-prices"


def test_every_name_of_the_list_finds_a_price_of_its_own() -> None:
    """No model of the list is hidden behind another one's beginning."""
    published = PublishedPrices()
    wrong = []
    for provider in published.providers():
        for model in provider.models:
            found = published.resolve(Identity(provider.id, model.id.lower()))
            if found is not None and found[1].id.lower() != model.id.lower():
                wrong.append((provider.id, model.id, found[1].id))
    assert wrong == []


def test_corrections_reach_every_alias_of_the_list() -> None:
    """Also with a date, a version or `latest` behind it."""
    for name, entry in corrections().models.items():
        of = identify(name, entry.provider)
        aliases = {of.model}
        if not of.model.endswith("-latest"):
            aliases |= {f"{of.model}{end}" for end in ("-latest", "-20250101", "-2025-01-01")}
        for alias in aliases:
            price = PRICER.price(f"{entry.provider}/{alias}")
            assert (price.source, price.provider) == ("corrections", of.provider), alias
            if of.provider != "vertex":  # Without a host it is the maker's.
                assert PRICER.price(alias).source == "corrections", alias


def test_a_charge_says_what_it_was_for() -> None:
    price = PRICER.price("eu/gpt-4o", provider="azure")
    assert price.metadata()["price_of"] == "azure/eu/gpt-4o"
    again = Price.unpacked(price.packed())
    assert again.metadata() == price.metadata()
    older = price.packed()
    older["p"] = older["p"][:5]
    assert Price.unpacked(older).cost(MILLION) == price.cost(MILLION)


def _with(tmp_path: Path, *entries: str) -> Pricer:
    path = tmp_path / "prices.toml"
    path.write_text("[models]\n" + "\n".join(entries) + "\n", encoding="utf-8")
    return Pricer(price_file=path)
