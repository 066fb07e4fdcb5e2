"""The scores of explanations: what is right scores high, each kind of wrong lowers its own criterion."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_llm.dataset import prompt_and_completion, simulated_dataset
from trading_llm.quality.claims import claims_of
from trading_llm.quality.indicators import Figure, figures_in
from trading_llm.quality.scoring import CRITERIA, mean_scores, score, stated_action

RECORDS = simulated_dataset(1, 40)[1]
PAIRS = [prompt_and_completion(record) for record in RECORDS]
PROMPTS, COMPLETIONS = [pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS]


def means(texts: list[str]) -> dict[str, float]:
    """Scores of one text per prompt of the validation set."""
    return mean_scores(
        score(prompt, text, record.action) for prompt, text, record in zip(PROMPTS, texts, RECORDS, strict=True)
    )


# -- whole sets: the generator's own explanations, and controls -------------------------------------------------------


def test_explanations_of_the_dataset_score_high_in_everything() -> None:
    scores = means(COMPLETIONS)
    assert list(scores) == list(CRITERIA)
    for criterion in ("variety", "coherence", "references", "readings", "grounding", "action", "terminology"):
        assert scores[criterion] > 0.95, criterion
    assert scores["structure"] > 0.9
    assert scores["balance"] > 0.6, "not every explanation has two sides"


def test_the_explanations_of_other_prompts_are_fluent_and_wrong() -> None:
    scores, right = means([*COMPLETIONS[1:], COMPLETIONS[0]]), means(COMPLETIONS)
    for criterion in ("variety", "coherence", "structure", "balance", "terminology"):
        assert scores[criterion] == pytest.approx(right[criterion], abs=0.05), criterion
    assert scores["references"] < 0.3
    assert scores["grounding"] < 0.2
    assert scores["readings"] < 0.75
    assert scores["action"] < 0.75


def test_words_in_any_order_are_incoherent() -> None:
    shuffle = random.Random(0)
    scores = means([" ".join(shuffle.sample(text.split(), len(text.split()))) for text in COMPLETIONS])
    assert scores["coherence"] < 0.5
    assert scores["structure"] < 0.6
    assert scores["readings"] < 0.4


def test_loops_noise_and_nothing() -> None:
    draw = random.Random(0)
    loops = means([" BUY\n" + "The RSI is in the " * 40] * len(RECORDS))
    assert loops["variety"] == 0
    assert loops["coherence"] < 0.3
    noise = means(
        ["".join(draw.choice(string.ascii_lowercase + " ., 0123456789") for _ in range(400)) for _ in RECORDS]
    )
    for criterion in CRITERIA[1:]:
        assert noise[criterion] < 0.1, criterion
    assert set(means([""] * len(RECORDS)).values()) == {0.0}


def test_fluent_generalities_say_nothing_of_the_prompt() -> None:
    scores = means(["The market is influenced by many factors, and it is important to do your own research."] * 40)
    assert scores["coherence"] > 0.9
    assert {scores[name] for name in ("references", "readings", "grounding", "action", "terminology")} == {0.0}


def test_the_same_input_gives_the_same_scores() -> None:
    assert means(COMPLETIONS) == means(COMPLETIONS)


# -- free wording, as of a large model --------------------------------------------------------------------------------

ASSISTANT = """<|start_header_id|>user<|end_header_id|>

You are a trading assistant. Analyse the market data and recommend BUY, SELL or HOLD.
Symbol: ACME
- Close: $1,248.17
- RSI (14): 71.3
- MACD: 2.33, Signal line: 2.51
- SMA 20: 1,230.4
- 50-day EMA: 1,190.02
- Bollinger %B: 0.97
- Volume: 1.62x average
- ATR: 2.1%
"""
GOOD = """**Recommendation: HOLD**

ACME is trading at $1,248.17, comfortably above both its 20-day SMA ($1,230.40) and the 50-day EMA ($1,190.02), which \
confirms an established uptrend. However, the RSI of 71 indicates overbought conditions, and the MACD (2.33) has \
slipped below its signal line (2.51), suggesting that bullish momentum is fading. Price is also pressing on the upper \
Bollinger Band (%B 0.97). Volume at 1.62 times average shows conviction, but the risk of a pullback is elevated. \
Overall, it is better to wait for RSI to cool below 60 before adding exposure; a stop near 1,225 would limit the \
downside."""
WRONG = """**Recommendation: BUY**

The RSI of 28.4 shows the stock is oversold, and the stochastic oscillator at 15 confirms it. The price is below its \
200-day moving average of 1,310.55, so a rebound is likely. The MACD at 0.87 is above its signal line, which is \
bullish. Volume is thin. Overall buying is justified."""


def test_a_large_models_good_answer() -> None:
    scores = score(ASSISTANT, GOOD, "HOLD")
    assert min(scores.values()) > 0.95, scores


def test_a_fluent_answer_with_wrong_figures() -> None:
    scores = score(ASSISTANT, WRONG, "HOLD")
    assert scores["coherence"] > 0.9
    assert scores["structure"] > 0.9
    assert scores["references"] < 0.3
    assert scores["readings"] < 0.3
    assert scores["grounding"] < 0.1
    assert scores["action"] == 0


FORMS = {
    "lines": ("close: 145.68\nsma_20: 141.32\nrsi_14: 63.2\nmacd: -2.33\nmacd_signal: 2.16\nbollinger_percent_b: 0.82\n"
              "atr_percent: 1.79\nvolume_ratio: 0.93\naction:"),
    "json": ('{"symbol": "X", "close": 145.68, "sma_20": 141.32, "rsi_14": 63.2, "macd": -2.33, "macd_signal": 2.16, '
             '"bollinger_percent_b": 0.82, "atr_percent": 1.79, "volume_ratio": 0.93}'),
    "list": ("- Close = $145.68\n- SMA(20) = 141.32\n* RSI(14): 63.2\n* MACD: −2.33\n* MACD Signal: +2.16\n"
             "* Bollinger %B: 0.82; ATR%: 1.79; Volume ratio: 0.93"),
    "prose": ("The closing price was 145.68 and the 20-day SMA 141.32. The 14-day RSI is 63.2, the MACD stands at "
              "-2.33 with its signal line at 2.16, %B at 0.82, the ATR at 1.79 and relative volume at 0.93."),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_figures_of_a_prompt_in_any_form(form: str) -> None:
    assert {(figure.kind, figure.value) for figure in figures_in(FORMS[form])} == {
        ("price", 145.68), ("sma", 141.32), ("rsi", 63.2), ("macd", -2.33), ("macd_signal", 2.16),
        ("percent_b", 0.82), ("atr", 1.79), ("volume", 0.93),
    }  # fmt: skip


def test_own_keys_are_figures_too() -> None:
    prompt = "rsi_14: 25.1\nsentiment_score: 0.62\naction:"
    assert Figure("sentiment score", None, 0.62) in figures_in(prompt)
    right = claims_of("The sentiment score of 0.62 supports it.", figures_in(prompt))
    wrong = claims_of("The sentiment score of 0.91 supports it.", figures_in(prompt))
    assert (len(right.quoted), right.misquoted, right.invented_numbers) == (1, 0, 0)
    assert (len(wrong.quoted), wrong.misquoted, wrong.invented_numbers) == (0, 1, 1)


STATE = figures_in(FORMS["lines"])
SAID = [
    # (text, quoted, misquoted, invented numbers, invented names)
    ("RSI at 63.2.", 1, 0, 0, 0),
    ("RSI (14) is 63.", 1, 0, 0, 0),
    ("RSI 63 is firm.", 1, 0, 0, 0),
    ("RSI 71 is firm.", 0, 1, 1, 0),
    ("RSI 14 (63.2) and SMA 20 141.32.", 2, 0, 0, 0),
    ("An RSI of 36.2.", 0, 1, 1, 0),
    ("RSI at 145.68.", 0, 1, 0, 0),
    ("The RSI is below 70.", 0, 0, 0, 0),
    ("At 145.68 it trades above its 20-day average of 141.32.", 2, 0, 0, 0),
    ("The averages agree, since 145.68 is above 141.32.", 2, 0, 0, 0),
    ("Since 145.68 is above 141.32 and the RSI is below 141.32.", 2, 0, 0, 0),
    ("The price is above the 200-day moving average.", 0, 0, 0, 1),
    ("The 50-day EMA of 139 supports it.", 0, 0, 1, 1),
    ("ADX at 31 shows a trend.", 0, 0, 1, 1),
    ("MACD (-2.33) is below its signal line (2.16).", 2, 0, 0, 0),
    ("The MACD is 4.49 below its signal.", 0, 0, 0, 0),
    ("The price is 3.1% above the 20-day SMA.", 0, 0, 0, 0),
    ("Volume is 7% below average.", 1, 0, 0, 0),
    ("Volume at 0.93 times the average.", 1, 0, 0, 0),
    ("0.93 times the usual volume confirms nothing.", 1, 0, 0, 0),
    ("Set a stop at 138.5 and risk 2% of the capital.", 0, 0, 0, 0),
    ("The price may fall to 97.31.", 0, 1, 1, 0),
]


@pytest.mark.parametrize(("text", "quoted", "misquoted", "numbers", "names"), SAID, ids=[said[0] for said in SAID])
def test_what_is_quoted_misquoted_and_invented(
    text: str, quoted: int, misquoted: int, numbers: int, names: int
) -> None:
    claims = claims_of(text, STATE)
    found = (len(claims.quoted), claims.misquoted, claims.invented_numbers, claims.invented_names)
    assert found == (quoted, misquoted, numbers, names)


READ = [
    ("rsi_14: 71", "RSI at 71 is overbought.", [True]),
    ("rsi_14: 71", "RSI at 71 is oversold.", [False]),
    ("rsi_14: 65", "RSI at 65 is overbought.", [False]),
    ("rsi_14: 65", "RSI at 65 is not yet overbought.", []),
    ("rsi_14: 65", "RSI at 65 is approaching overbought territory.", []),
    ("rsi_14: 50", "The RSI is neutral.", [True]),
    ("rsi_14: 20", "The RSI is neutral.", [False]),
    ("rsi_14: 60", "The RSI shows strong momentum.", [True]),
    ("rsi_14: 40", "The RSI shows strong momentum.", [False]),
    ("stochastic: 85\nrsi_14: 50", "The stochastic at 85 is overbought.", [True]),
    ("macd: 1\nmacd_signal: 0.5", "The MACD crossed above its signal line.", [True]),
    ("macd: 1\nmacd_signal: 1.5", "The MACD is above the signal line.", [False]),
    ("macd: 1\nmacd_signal: 1.5", "The MACD has fallen below the signal.", [True]),
    ("close: 10\nsma_20: 9", "The price is above its 20-day average.", [True]),
    ("close: 10\nsma_20: 11", "The price holds above the 20-day SMA.", [False]),
    ("close: 10\nsma_20: 9\nema_50: 8", "The stock is in an uptrend.", [True]),
    ("close: 10\nsma_20: 11\nema_50: 12", "The stock is in an uptrend.", [False]),
    ("close: 10\nsma_20: 11\nema_50: 9", "There is no clear trend.", [True]),
    ("bollinger_percent_b: 1.1", "It closed above the upper Bollinger band.", [True]),
    ("bollinger_percent_b: 0.5", "It closed above the upper Bollinger band.", [False]),
    ("bollinger_percent_b: 0.5", "The price is inside the Bollinger bands.", [True]),
    ("volume_ratio: 2", "Heavy volume confirms the move.", [True]),
    ("volume_ratio: 0.5", "Heavy volume confirms the move.", [False]),
    ("volume_ratio: 0.5", "Volume is thin.", [True]),
    ("atr_percent: 5", "Volatility is low.", [False]),
    ("close: 10", "RSI is overbought.", []),
]


@pytest.mark.parametrize(("prompt", "text", "truths"), READ, ids=[f"{p!r}, {t}" for p, t, _ in READ])
def test_whether_a_reading_is_true(prompt: str, text: str, truths: list[bool]) -> None:
    assert claims_of(text, figures_in(prompt)).readings == truths


def test_an_indicator_cannot_be_both() -> None:
    prompt = "rsi_14: 71\nmacd: 1\nmacd_signal: 0.5"
    one = "The RSI of 71 is overbought. The MACD is above its signal line. Overall it is better to wait."
    both = one.replace("Overall", "The RSI is deep in oversold territory. Overall")
    assert score(prompt, both)["coherence"] < 0.8 * score(prompt, one)["coherence"]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (" BUY\nThe trend is up.", "BUY"),
        ("Sell. The trend is down.", None),
        ("SELL: the trend is down.", "SELL"),
        ("Action: hold\nNothing moves.", "HOLD"),
        ("I recommend that you buy the dip.", "BUY"),
        ("The trend is up. Overall, buying is justified.", "BUY"),
        ("Prices fell. Therefore it is better to wait.", "HOLD"),
        ("Prices fell.", None),
        ("", None),
    ],
)
def test_the_action_that_a_text_recommends(text: str, action: str | None) -> None:
    assert stated_action(text) == action


def test_the_action_must_be_right_and_argued_for() -> None:
    prompt, text = "rsi_14: 71\naction:", " SELL\nThe RSI of 71 is overbought. Overall selling is justified."
    assert score(prompt, text, "SELL")["action"] == 1
    assert score(prompt, text)["action"] == 1
    assert score(prompt, text, "BUY")["action"] == 0
    assert score(prompt, text.replace("selling", "buying"), "SELL")["action"] == 0.5


def test_a_prompt_without_figures_leaves_out_what_needs_them() -> None:
    scores = score("Explain what a moving average is.", "A moving average smooths prices.")
    assert not {"references", "readings", "grounding"} & set(scores)
    assert mean_scores([scores, score("rsi_14: 71", "RSI at 71 is overbought.")])["grounding"] == 1


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=600), st.sampled_from([None, "BUY", "SELL", "HOLD"]))
def test_any_text_has_scores_between_0_and_1(prompt: str, text: str, action: str | None) -> None:
    for scores in (score(prompt, text, action), score(PROMPTS[0], text, action), score(prompt, COMPLETIONS[0], action)):
        assert set(scores) <= set(CRITERIA)
        assert all(0 <= value <= 1 for value in scores.values())
