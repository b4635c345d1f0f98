"""The words of the bundled model's little world, short so that its vocabulary stays small."""

NAMES = (
    "Ada Alma Amir Anna Ben Bella Carl Cora Dan Dina Emil Emma Ella Finn Flora Gina Hana Hugo Ida Ivan "
    "Jan Jonas Kara Karl Lena Leo Luis Mara Marta Milo Mona Nina Noah Nora Omar Oscar Otto Paul Rita Rosa "
    "Sara Simon Tara Theo Tina Tom Vera Walter"
).split()

ADJECTIVES = (
    "green red blue black white brown golden silver warm cold hot cool dry wet old new late early "
    "small large long short tall wide deep thin round flat soft hard bright dark clear calm loud quiet "
    "slow fast heavy light sweet bitter gentle broken hidden painted wooden iron"
).split()

NOUNS = (
    "river lake sea hill stone tower bridge road gate garden forest tree flower seed field farm barn "
    "mill house door window table chair lamp candle mirror clock bell drum horn boat ship anchor sail net "
    "rope wagon wheel horse goat sheep fox bear owl crow hen star moon sun cloud storm rain snow wind "
    "bread salt honey apple plum letter map coin ring key"
).split()

VERBS = (
    "rests waits stands turns moves falls rises sinks sleeps hides stays drifts shines fades "
    "leans rolls lies sings hums swings grows"
).split()

ADVERBS = "now again today slowly alone often still there here always".split()

PREPOSITIONS = "near under behind above beside over by past before".split()
