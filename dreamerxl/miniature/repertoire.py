"""What the embedded model can be asked for, as a visitor reads it, and what comes nearest to things that it cannot make."""

from __future__ import annotations

import functools

from dreamerxl.guidance.words import Repertoire
from dreamerxl.miniature.accessories import ACCESSORIES
from dreamerxl.miniature.language import FLAWS
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.world import COLORS, MATERIALS, PATTERNS

KIN = {  # what the model knows -> what people ask for that comes close to it
    "bear": "panda koala bunny rabbit hamster mouse monkey gorilla ape",
    "cat": "tiger lion leopard panther cheetah lynx",
    "dog": "wolf fox poodle beagle dachshund corgi labrador horse cow pig sheep goat deer donkey zebra unicorn dragon dinosaur",
    "penguin": "puffin seal",
    "owl": "bird eagle hawk falcon parrot pigeon crow raven robin",
    "elephant": "rhino rhinoceros hippo hippopotamus mammoth giraffe",
    "duck": "duckling goose swan chicken hen rooster chick",
    "snowman": "santa gnome dwarf elf",
    "robot": "machine cyborg astronaut man woman person human boy girl knight soldier doll",
    "donut": "bagel cookie biscuit pretzel croissant ring",
    "apple": "pear peach cherry plum tomato strawberry lemon banana fruit",
    "pumpkin": "gourd squash melon watermelon vegetable",
    "cupcake": "cake pie pudding dessert tart",
    "ice cream": "gelato sorbet sundae lollipop popsicle",
    "hamburger": "sandwich cheeseburger hotdog pizza taco bread",
    "mushroom": "fungus toadstools champignon",
    "cactus": "succulent aloe plant",
    "tree": "oak pine fir palm bush forest bonsai",
    "flower": "rose tulip daisy sunflower lily orchid blossom bouquet",
    "house": "hut cabin barn villa shed building",
    "castle": "palace fortress fort citadel church temple",
    "lighthouse": "beacon windmill minaret",
    "chair": "armchair stool sofa couch bench throne seat",
    "table": "bureau workbench nightstand cabinet drawer",
    "teapot": "kettle jug pitcher vase bottle",
    "mug": "glass goblet bowl beaker bucket",
    "lamp": "lantern light candle torch chandelier",
    "guitar": "violin cello banjo ukulele harp piano",
    "treasure chest": "box trunk crate case coffer",
    "rocket": "missile spacecraft shuttle",
    "car": "truck lorry bus van taxi jeep tractor train vehicle",
    "aeroplane": "jet aircraft helicopter glider drone biplane",
    "sailing boat": "ship yacht ferry canoe galleon submarine vessel",
    "bicycle": "motorbike motorcycle scooter moped tricycle",
    "balloon": "zeppelin airship blimp parachute",
    "football helmet": "visor armor armour",
    "crown": "tiara diadem",
    "hat": "cap bonnet beret fedora cowboy beanie sombrero",
    "scarf": "tie bowtie necklace collar bandana",
    "red": "maroon ruby burgundy",
    "green": "olive emerald khaki",
    "blue": "azure indigo sapphire",
    "yellow": "amber mustard",
    "orange": "apricot coral copper",
    "purple": "lilac lavender mauve",
    "pink": "rosy salmon fuchsia",
    "white": "ivory marble porcelain snowy",
    "black": "ebony onyx",
    "brown": "tan beige chocolate bronze",
    "grey": "silver stone concrete metal steel",
    "turquoise": "mint",
    "golden": "gilded brass",
    "wooden": "timber",
    "glossy": "lacquered ceramic",
    "striped": "stripe lined checkered chequered plaid",
    "spotted": "dot speckled dappled freckled",
}


@functools.cache
def repertoire() -> Repertoire:
    """The embedded model's things, grouped as its catalogue is, and what can be said of them."""
    things: dict[str, tuple[str, ...]] = {}
    for name, kind in OBJECTS.items():
        family = kind.build.__module__.rpartition(".")[2]
        things[family] = (*things.get(family, ()), name)
    related: dict[str, str] = {}
    for known, words in KIN.items():
        for word in words.split():
            related.setdefault(word, known)
    return Repertoire(
        things=things,
        qualities={
            "colours": COLORS,
            "finishes": (*MATERIALS, *(pattern for pattern in PATTERNS if pattern != "plain")),
            "to wear": tuple(ACCESSORIES),
            "to stand on": ("wooden table",),
        },
        subjects=tuple(noun for kind in OBJECTS.values() for noun in kind.nouns),
        flaws=tuple(dict.fromkeys(word for words in FLAWS.values() for word in words)),
        related=related,
    )
