"""Everyday scenes and the words that go with them, from which concept sets are drawn.

Written for this project. Every noun and verb of a scene can meet in one sensible sentence; verbs are plain
infinitives, nouns plain singulars (or words used in one number only), so that inflected use can be recognised.
"""

SCENES: dict[str, tuple[str, str]] = {  # scene: (nouns, verbs), each separated by blanks
    "kitchen": (
        "cook knife onion pan soup spoon stove bowl bread carrot",
        "chop stir boil taste pour fry serve",
    ),
    "bakery": (
        "baker dough oven flour cake loaf counter tray customer butter",
        "bake knead sell slice smell mix",
    ),
    "park": (
        "child bench dog ball tree kite path squirrel grass grandfather",
        "chase throw walk sit play watch climb",
    ),
    "beach": (
        "wave sand umbrella towel shell family surfer bucket sun gull",
        "swim dig lie collect splash relax build",
    ),
    "street": (
        "bus driver bicycle corner shop crowd umbrella traffic light rain",
        "wait cross ride stop hurry honk walk",
    ),
    "garden": (
        "gardener rose shovel soil hose flower bee fence leaf basket",
        "plant water rake pick grow dig bloom",
    ),
    "farm": (
        "farmer tractor cow barn field hen egg horse hay fence",
        "feed milk plow gather graze lead repair",
    ),
    "classroom": (
        "teacher student desk board book question pencil map window lesson",
        "write ask explain raise listen read learn",
    ),
    "library": (
        "reader shelf book lamp librarian table page notebook corner chair",
        "read borrow whisper return study find turn",
    ),
    "hospital": (
        "nurse doctor patient bed needle visitor bandage hallway medicine blanket",
        "examine visit rest wrap bring heal sleep",
    ),
    "train station": (
        "train platform ticket suitcase passenger clock conductor bench newspaper whistle",
        "board wait carry miss arrive wave leave",
    ),
    "airport": (
        "plane pilot gate passport suitcase traveler runway window guard line",
        "land fly check board wait drag hug",
    ),
    "market": (
        "vendor apple fish stall basket coin customer cheese scale bag",
        "sell buy weigh carry shout choose pay",
    ),
    "restaurant": (
        "waiter plate menu glass chef table couple candle dessert bill",
        "order serve eat drink carry share pay",
    ),
    "workshop": (
        "carpenter hammer nail board saw bench ladder chair glue drill",
        "cut measure build sand paint fix hold",
    ),
    "garage": (
        "mechanic car engine tire wrench oil hood jack owner bolt",
        "fix lift check tighten drive change roll",
    ),
    "concert": (
        "singer guitar stage crowd drum microphone band light song piano",
        "sing play dance cheer clap perform listen",
    ),
    "stadium": (
        "player ball goal coach fan referee field whistle team bench",
        "kick score run pass shout jump win",
    ),
    "mountain": (
        "hiker trail rope tent river rock backpack snow guide boot",
        "climb hike slip camp rest cross melt",
    ),
    "lake": (
        "boat fisherman net duck paddle dock fish cabin bridge hat",
        "catch row float jump swim fish tie",
    ),
    "living room": (
        "sofa cat television carpet lamp window fireplace blanket grandmother pillow",
        "sleep watch sit knit stretch talk purr",
    ),
    "laundry": (
        "shirt basket machine soap sock line iron towel dryer closet",
        "wash fold hang dry press sort shrink",
    ),
    "birthday party": (
        "cake candle balloon gift guest ribbon friend camera hat game",
        "blow wrap laugh open bring celebrate sing",
    ),
    "office": (
        "manager computer printer desk coffee phone meeting letter chair clerk",
        "type call print sign talk work spill",
    ),
    "art studio": (
        "painter brush canvas paint model easel clay portrait window apron",
        "draw mix hang sketch dip pose finish",
    ),
    "winter day": (
        "snow sled hill scarf child shovel roof ice mitten snowman",
        "slide build fall melt skate pull shiver",
    ),
}
