"""The words of the generated tasks: common ones, so that any English model knows them, and few, so that the bundled
model's vocabulary stays small."""

from __future__ import annotations

NAMES = (
    "Ada Alma Amir Anna Ben Bella Boris Carl Clara Cora Dan Dina Doris Edgar Ella Emil Emma Felix Finn Flora Fred Gina "
    "Greta Hana Henry Hugo Ida Iris Ivan Jack Jan Jonas Kara Karl Lena Leo Luis Mara Marta Milo Mona Nina Noah Nora "
    "Olga Omar Oscar Otto Paul Rita Rosa Sam Sara Simon Tara Theo Tina Tom Vera Victor Walter Wanda Yuri Zoe"
).split()

ADJECTIVES = (
    "green red blue black white brown golden silver warm cold hot cool dry wet old new late early "
    "small large long short tall wide deep thin round flat soft hard bright dark clear calm loud quiet "
    "slow fast heavy light sweet bitter gentle broken hidden painted wooden iron"
).split()

THINGS = (
    "lamp clock bell drum horn boat anchor sail net rope wagon wheel chair table candle mirror letter map coin "
    "ring key book flute cup plate basket hammer ladder needle pillow saddle shovel umbrella vase whistle violin "
    "blanket bottle brush kettle"
).split()

PLACES = (
    "tower mill house barn castle inn cabin cottage palace temple school market harbor village valley forest "
    "garden farm cave station bridge library bakery stable chapel museum theater factory prison camp tent"
).split()

JOBS = (
    "baker barber butcher carpenter cook dancer doctor driver farmer fisher gardener guard hunter judge miller miner "
    "nurse painter pilot poet porter potter priest sailor shepherd singer smith soldier tailor teacher waiter weaver"
).split()

SCENERY = (
    "river lake sea hill stone road gate tree flower seed field door window ship horse goat sheep fox bear owl crow hen "
    "star moon sun cloud storm rain snow wind bread salt honey apple plum"
).split()

VERBS = (
    "rests waits stands turns moves falls rises sinks hides stays drifts shines fades leans rolls lies hums swings grows"
).split()

ADVERBS = "now again today slowly alone often still there here always".split()

PREPOSITIONS = "near under behind above beside over by past before".split()

NUMBERS = "zero one two three four five six seven eight".split()
