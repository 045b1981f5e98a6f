"""What the demo's world is made of: days, opposites, names, words to spell, and things that
it does not know.

Knows nothing of questions.
"""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("fast", "slow"),
    ("open", "closed"), ("day", "night"), ("black", "white"), ("old", "new"), ("long", "short"),
    ("high", "low"), ("hard", "soft"), ("wet", "dry"), ("full", "empty"), ("light", "dark"),
    ("happy", "sad"), ("good", "bad"), ("early", "late"), ("rich", "poor"), ("thick", "thin"),
    ("loud", "quiet"), ("clean", "dirty"), ("strong", "weak"), ("near", "far"), ("yes", "no"),
    ("first", "last"), ("sweet", "sour"), ("inside", "outside"), ("above", "below"),
    ("always", "never"), ("true", "false"), ("summer", "winter"), ("north", "south"),
    ("push", "pull"), ("win", "lose"), ("buy", "sell"), ("start", "end"), ("in", "out"),
    ("on", "off"), ("all", "none"), ("more", "less"),
)  # fmt: skip
OPPOSITE = {**dict(OPPOSITES), **{b: a for a, b in OPPOSITES}}

SPELLED = (
    "cat", "dog", "sun", "moon", "tree", "house", "apple", "bread", "water", "fish", "bird",
    "book", "chair", "table", "door", "river", "green", "red", "blue", "yellow", "orange",
    "purple", "black", "white", "circle", "square", "star", "cross", "ring", "triangle", "milk",
    "horse", "sheep", "snow", "rain", "cloud", "stone", "sand", "fire", "wind", "hand", "foot",
    "head", "nose", "ear", "eye", "day", "night", "week", "year", "king", "queen", "ship",
    "boat", "train", "car", "road", "hill", "lake", "sea", "leaf", "flower", "grass", "salt",
    "sugar", "tea", "cup", "box", "key", "lamp", "clock", "paper", "pen", "ball", "game",
    "song", "music", "friend", "mother", "father", "sister", "brother", "child", "baby",
    "word", "letter", "number", "one", "two", "three", "seven", "ten", "hello", "tiny", "model",
    "picture", "shape", "colour", "mouse", "cow", "pig", "duck", "frog", "bear", "wolf", "lion",
    "egg", "cake", "soup", "pear", "plum", "nut", "hat", "shoe", "coat", "bag", "bed", "wall",
    "floor", "roof", "room", "city", "farm", "field", "wood", "gold", "iron", "glass",
)  # fmt: skip

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate",
    "Leo", "Maria", "Noah", "Olivia", "Paul", "Rosa", "Sam", "Tina", "Uma", "Victor", "Wendy",
    "Max", "Yara", "Zoe", "Adam", "Bella", "Carl", "Daisy", "Eric", "Fiona", "George", "Hanna",
    "Ivan", "Julia", "Karl", "Laura", "Mark", "Nina", "Oscar", "Peter", "Ruth", "Simon", "Tom",
    "Alice", "Bob", "Lisa", "Martin", "Sarah", "Thomas", "Lucy", "James", "Mary", "John",
    "Linda", "Robert", "Susan", "Michael", "Karen", "Daniel", "Nancy", "Kevin", "Helen",
    "Frank", "Amy", "Lars", "Mia", "Finn", "Omar", "Aisha", "Wei", "Yuki", "Priya", "Raj",
    "Chen", "Sofia", "Luca", "Elena", "Pablo", "Ingrid", "Sven", "Olga", "Igor", "Fatima",
    "Ali", "Jose", "Carmen", "Diego", "Marta", "Jan", "Eva", "Hugo", "Lena", "Otto", "Greta",
)  # fmt: skip
HELD_OUT_NAMES = ("Nora", "Philip", "Stella", "Walter", "Miriam", "Kurt", "Amara", "Benno")

# What it declines: heads and topics, joined at random.
TOPICS = (
    "the capital of France", "the weather", "quantum physics", "the French revolution",
    "the stock market", "democracy", "a black hole", "the moon landing", "photosynthesis",
    "a good film", "the meaning of life", "your favourite food", "machine learning", "Python",
    "the Roman empire", "my taxes", "a recipe for pancakes", "the population of Japan",
    "the speed of light", "a healthy breakfast", "football", "chess", "jazz", "climate change",
    "the president", "dinosaurs", "electric cars", "the internet", "inflation", "gravity",
    "a good book", "the best phone", "the price of gold", "Mount Everest", "the Nile", "Berlin",
    "London", "Mars", "DNA", "a volcano", "the piano", "a contract", "a headache", "a cover letter",
    "love", "time travel", "coffee", "a loan", "wine", "Shakespeare", "Mozart", "Einstein",
    "a good joke", "the news", "the ocean", "an earthquake", "birds", "cats", "the alphabet",
    "a car engine", "a computer", "money", "politics", "history", "the universe", "tomatoes",
    "a holiday in Spain", "an old bridge", "Llama 4", "a neural network", "Apple", "the sea",
)  # fmt: skip
PEOPLE = (
    "the king of Sweden", "Albert Einstein", "my neighbour", "the mayor", "Napoleon", "a doctor",
    "the inventor of the telephone", "my teacher", "Cleopatra", "the author of Hamlet", "a pilot",
)  # fmt: skip
UNKNOWN = (
    "What is {t}?|Explain {t}.|Tell me about {t}.|Write a poem about {t}."
    "|What do you know about {t}?"
    "|Why is {t} important?|How does {t} work?|Can you help me with {t}?|Write a story about {t}."
    "|Give me a summary of {t}.|What do you think of {t}?|Who invented {t}?|Do you like {t}?"
    "|When did {t} begin?|Where does {t} come from?|Translate {t} into German."
    "|Write code for {t}.|How much does {t} cost?|Is {t} dangerous?|I need advice about {t}."
    "|Let us talk about {t}.|What are the pros and cons of {t}?|Who is {w}?|How old is {w}?"
    "|Where does {w} live?|When was {w} born?|What did {w} say about {t}?|Did {w} like {t}?"
    "|Write an email to {w} about {t}.|How can I learn {t}?|Should I worry about {t}?"
    "|Compare {t} and {u}.|What is the difference between {t} and {u}?|Which is better, {t} or {u}?"
    "|How many people know about {t}?|What colour is {t}?|Where is {t}?|How many years has {t}?"
    "|Spell check this: {t}.|What happened to {t} yesterday?|Draw {t}.|Sing a song about {t}."
    "|Recommend something about {t}.|Make a list of {t}.|Is there life in {t}?"
    "|What rhymes with {t}?"
)
EVERYDAY = (
    "What time is it?|Tell me a joke.|What is the date?|Sing a song.|Do you love me?|I am hungry."
    "|What should I eat today?|Will it rain tomorrow?|How tall are you?|Where do you live?"
    "|Can you drive?|What is your favourite colour?|Play some music.|Open the window."
    "|Who won the match?|Call my mother.|Book a flight.|I feel sick.|Are you happy?|Do you sleep?"
    "|What is the answer?|Why?|Why is the sky blue?|Why not?|Tell me a story.|Write some code."
    "|Fix this bug.|What year is it?|How far is the moon?|What is love?|Prove it.|Solve x + 1 = y."
    "|Translate this.|Is god real?|Do my homework.|I lost my keys.|Let us play.|Guess a number."
    "|What is the square root of two?|What is pi?|How are the birds?|Buy me a car.|Order a pizza."
)
FILLERS = (
    "the", "of", "and", "to", "in", "is", "was", "for", "with", "that", "my", "your", "over",
    "about", "people", "water", "stone", "never", "green", "would", "could", "because", "after",
    "before", "house", "run", "walk", "think", "small", "old", "every", "without", "quick",
    "number",
)  # fmt: skip
