"""Greetings, names, and what the model says of itself.

Knows nothing of conversations: who asks says which name was told.
"""

from random import Random

from .nonsense import made_up
from .wording import pick
from .words import HELD_OUT_NAMES, NAMES

Asked = tuple[str, str]  # question and answer
ME = "I am the mlx-maverick demo, a tiny model."
SKILLS = "I know pictures of simple shapes, small sums, days, opposites and spelling."


def greeting(rng: Random) -> Asked:
    """Hello, how are you, thanks, goodbye."""
    return rng.choice((
        (pick(rng, "Hello!|Hello|Hi|Hi there!|Hey|Hey there|Good morning!|Good evening|Good day"
                   "|Greetings|Hello there|Hi!|hello|hi|Howdy|Good afternoon!"),
         "Hello! How can I help?"),
        (pick(rng, "How are you?|How are you today?|How is it going?|How do you do?|Are you well?"
                   "|Hello, how are you?|Hi, how are you?|How are you doing?"),
         "I am fine, thank you."),
        (pick(rng, "Thanks!|Thank you.|Thanks a lot|Thank you very much!|Great, thanks."
                   "|Cool, thanks"
                   "|Well done!|Good job.|Very good!|Great!"),
         "You are welcome."),
        (pick(rng, "Bye!|Goodbye.|See you later|Bye bye|See you!|Good night.|I have to go."
                   "|That is all."),
         "Goodbye!"),
    ))  # fmt: skip


def identity(rng: Random) -> Asked:
    """Who it is, who it is not, and what it can do."""
    return rng.choice((
        (pick(rng, "Who are you?|What are you?|What is your name?|Who is this?|Which model are you?"
                   "|Tell me about yourself.|Introduce yourself.|What model is this?"
                   "|What is mlx-maverick?"
                   "|What kind of model are you?|Do you have a name?|Who am I talking to?"), ME),
        (pick(rng, "Are you Llama?|Are you Llama 4?|Are you ChatGPT?|Are you a human?"
                   "|Are you Maverick?"
                   "|Are you a person?|Did Meta make you?|Are you made by Meta?"
                   "|Are you a big model?"
                   "|Are you from Meta?|Are you Llama 4 Maverick?|Are you real?"),
         f"No. {ME}"),
        (pick(rng, "What can you do?|What do you know?|How can you help me?|What are you good at?"
                   "|Help"
                   "|What can I ask you?|Help me.|What should I ask?|What are your skills?"
                   "|What can you talk about?"), SKILLS),
    ))  # fmt: skip


def told_name(rng: Random, held_out: bool = False) -> tuple[str, str, str]:
    """(question, answer, name)."""
    name = rng.choice(HELD_OUT_NAMES if held_out else NAMES)
    if not held_out and rng.random() < 0.35:
        name = made_up(rng).capitalize()
    if rng.random() < 0.08:
        name = name.lower()
    question = pick(
        rng,
        "My name is {n}.|I am {n}.|Call me {n}.|I'm {n}.|Hello, I am {n}.|Hi, my name is {n}."
        "|You can call me {n}.|My name is {n}, hello!|Please call me {n}.|Hi, I'm {n}!|This is {n}."
        "|Hello! My name is {n}.",
        n=name,
    )
    return question, f"Nice to meet you, {name}.", name


def asked_name(rng: Random, name: str | None) -> Asked:
    """What the user is called, if that was told."""
    question = pick(
        rng,
        "What is my name?|Do you know my name?|Who am I?|Do you remember my name?|What am I called?"
        "|Tell me my name.|Say my name.|How am I called?|Can you tell me my name?"
        "|Do you still know my name?|What was my name?",
    )
    return question, f"Your name is {name}." if name else "I do not know your name."
