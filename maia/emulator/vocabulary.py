"""The words of synthesized catalogues: topics, title forms and channel names in eight languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "es", "ja", "ko", "zh", "ru", "hi", "ar"]


@dataclass(frozen=True, slots=True)
class TopicWords:
    """A community of videos: its category, its name by language, and the tags its videos share."""

    category_id: int
    names: dict[Language, str]
    tags: tuple[str, ...]


def _topic(category_id: int, names: str, tags: str) -> TopicWords:
    languages: tuple[Language, ...] = ("en", "es", "ja", "ko", "zh", "ru", "hi", "ar")
    by_language = dict(zip(languages, (name.strip() for name in names.split(",")), strict=True))
    return TopicWords(category_id, by_language, tuple(tag.strip() for tag in tags.split(",")))


# Videos also get tags of the neighbouring topics in this ring, so every topic leads to every other.
TOPICS: tuple[TopicWords, ...] = (
    _topic(
        10,
        "guitar, guitarra, ギター, 기타, 吉他, гитара, गिटार, غيتار",
        "guitar, fingerstyle, acoustic guitar, guitar solo, chord progression, music theory, blues licks, "
        "luthier",
    ),
    _topic(
        10,
        "synthesizer, sintetizador, シンセサイザー, 신디사이저, 合成器, синтезатор, सिंथेसाइज़र, موسيقى "
        "إلكترونية",
        "synthesizer, modular synth, ambient music, sound design, drum machine, lofi beats, music "
        "production, vinyl",
    ),
    _topic(
        10,
        "choir, coro, 合唱, 합창, 合唱团, хор, गायन, جوقة",
        "choir, a cappella, vocal warm up, harmony singing, folk songs, live session, music festival, "
        "piano cover",
    ),
    _topic(
        24,
        "street dance, baile urbano, ダンス, 댄스, 街舞, танцы, नृत्य, رقص",
        "street dance, dance practice, choreography, breakdance, dance cover, random play dance, "
        "freestyle, battle",
    ),
    _topic(
        20,
        "speedrun, carrera de juegos, ゲーム実況, 게임 실황, 游戏实况, спидран, गेमिंग, ألعاب",
        "speedrun, world record, glitchless, retro games, any percent, pixel art, boss fight, lets play",
    ),
    _topic(
        20,
        "city builder, constructor de ciudades, 街づくり, 도시 건설, 城市建造, градостроительство, नगर "
        "निर्माण, بناء المدن",
        "city builder, strategy game, base building, simulation game, sandbox, redstone, game mods, no "
        "commentary",
    ),
    _topic(
        28,
        "microcontrollers, microcontroladores, マイコン, 마이크로컨트롤러, 单片机, микроконтроллеры, "
        "माइक्रोकंट्रोलर, متحكمات",
        "microcontroller, electronics, soldering, circuit board, sensors, embedded systems, oscilloscope, "
        "home automation",
    ),
    _topic(
        28,
        "astronomy, astronomía, 天文, 천문학, 天文学, астрономия, खगोल विज्ञान, فلك",
        "astronomy, telescope, astrophotography, star clusters, milky way, night sky, planets, meteor shower",
    ),
    _topic(
        27,
        "mathematics, matemáticas, 数学, 수학, 数学课, математика, गणित, رياضيات",
        "mathematics, number theory, geometry, visual proof, olympiad problem, calculus, statistics, puzzles",
    ),
    _topic(
        27,
        "language learning, aprender idiomas, 語学, 언어 공부, 学外语, изучение языков, भाषा सीखना, تعلم "
        "اللغات",
        "language learning, vocabulary, pronunciation, listening practice, grammar, study with me, flash "
        "cards, polyglot",
    ),
    _topic(
        25,
        "local news, noticias locales, 地域ニュース, 지역 뉴스, 本地新闻, местные новости, स्थानीय "
        "समाचार, أخبار محلية",
        "local news, weather forecast, city council, public transport, interview, press conference, "
        "election, traffic",
    ),
    _topic(
        19,
        "night trains, trenes nocturnos, 夜行列車, 야간열차, 夜班火车, ночной поезд, रात की रेल, قطارات",
        "night train, railway, cab view, station tour, slow travel, sleeper cabin, timetable, scenic route",
    ),
    _topic(
        19,
        "mountain huts, refugios de montaña, 山小屋, 산장, 山间小屋, горные хижины, पहाड़, جبال",
        "mountain hut, hiking, thru hike, ultralight gear, alpine, wild camping, trail running, packing list",
    ),
    _topic(
        17,
        "bouldering, escalada, ボルダリング, 볼더링, 抱石, скалолазание, चढ़ाई, تسلق",
        "bouldering, climbing, finger strength, competition climbing, crag, training plan, injury "
        "prevention, rope",
    ),
    _topic(
        17,
        "table tennis, tenis de mesa, 卓球, 탁구, 乒乓球, настольный теннис, टेबल टेनिस, تنس الطاولة",
        "table tennis, forehand, serve practice, footwork, highlights, final match, rally, coaching",
    ),
    _topic(
        26,
        "sourdough, masa madre, パン作り, 빵 만들기, 酸面包, хлеб, रोटी, خبز",
        "sourdough, bread baking, starter, fermentation, home cooking, oven spring, recipe, kitchen tools",
    ),
    _topic(
        26,
        "street food, comida callejera, 屋台, 길거리 음식, 街头小吃, уличная еда, स्ट्रीट फूड, طعام الشارع",
        "street food, food tour, noodles, night market, spicy, dumplings, grill, dessert",
    ),
    _topic(
        26,
        "woodworking, carpintería, 木工, 목공, 木工活, столярное дело, बढ़ईगिरी, نجارة",
        "woodworking, hand tools, joinery, workshop, furniture restoration, chisel, plywood, finishing",
    ),
    _topic(
        2,
        "bicycle repair, reparar bicicletas, 自転車整備, 자전거 정비, 修自行车, ремонт велосипеда, साइकिल "
        "मरम्मत, دراجات",
        "bicycle repair, bike build, wheel truing, gravel bike, touring, commuter, restoration, maintenance",
    ),
    _topic(
        15,
        "cats, gatos, 猫, 고양이, 猫咪, кошки, बिल्लियाँ, قطط",
        "cats, kittens, rescue cat, cat behaviour, funny animals, pet care, vet visit, shelter",
    ),
    _topic(
        15,
        "aquarium, acuario, アクアリウム, 수족관, 水族箱, аквариум, मछलीघर, حوض أسماك",
        "aquarium, planted tank, aquascape, shrimp, reef tank, water change, nano tank, biotope",
    ),
    _topic(
        29,
        "city gardens, huertos urbanos, 家庭菜園, 도시 텃밭, 城市园艺, огород, बागवानी, حدائق",
        "city garden, permaculture, seed starting, compost, balcony garden, pollinators, tomatoes, harvest",
    ),
    _topic(
        1,
        "stop motion, animación, コマ撮り, 스톱모션, 定格动画, мультипликация, एनिमेशन, رسوم متحركة",
        "stop motion, animation, short film, storyboard, miniature set, behind the scenes, film school, "
        "editing",
    ),
    _topic(
        23,
        "sketch comedy, comedia, コント, 코미디, 喜剧, юмор, हास्य, كوميديا",
        "sketch comedy, parody, improv, stand up, prank, satire, bloopers, reaction",
    ),
)

TAG_FORMS: tuple[str, ...] = (
    "{}", "{} tutorial", "{} for beginners", "{} tips", "{} 2026", "best {}", "{} explained",
    "{} review", "how to {}", "{} challenge", "{} live", "{} shorts", "{} mistakes", "{} setup",
    "{} compilation", "{} vlog",
)  # fmt: skip

TITLE_FORMS: dict[Language, tuple[str, ...]] = {
    "en": (
        "{name}: {tag} in {n} minutes",
        "I tried {tag} for {n} days",
        "{n} {tag} mistakes everyone makes",
        "The truth about {tag}",
        "{tag} | part {n}",
        "What nobody tells you about {name}",
        "{Name} & {tag}: a day",
    ),
    "es": (
        "{Name}: {n} consejos de {tag}",
        "Probé {name} durante {n} días",
        "¿Vale la pena {tag}?",
        "Todo sobre {name} | episodio {n}",
    ),
    "ja": (
        "【{name}】{tag} 第{n}回",
        "{name}を{n}日間やってみた",
        "初心者のための{name}入門 {n}",
        "{tag}で失敗しない方法",
    ),
    "ko": (
        "{name} {n}일 도전기",
        "[{tag}] {name} 초보 가이드 {n}편",
        "{name} 이렇게 하면 됩니다",
        "{tag} 몰아보기 {n}",
    ),
    "zh": (
        "{name}入门第{n}集",
        "{n}天学会{name}：{tag}",
        "关于{name}你不知道的{n}件事",
        "{tag} 完整版",
    ),
    "ru": (
        "{Name} за {n} минут: {tag}",
        "{n} ошибок новичка | {name}",
        "Как устроено: {name}, часть {n}",
    ),
    "hi": (
        "{name} सीखें {n} मिनट में",
        "{n} आसान तरीके | {name} | {tag}",
        "{name} का पूरा सच",
    ),
    "ar": (
        "تعلم {name} في {n} دقائق",
        "{name} للمبتدئين | {tag} {n}",
        "أسرار {name}",
    ),
}

CHANNEL_FORMS: dict[Language, tuple[str, ...]] = {
    "en": ("{place} {Name}", "The {Name} {thing}", "{Name} {thing} {n}", "{place} {thing}"),
    "es": ("{Name} {n}", "El {thing} de {name}"),
    "ja": ("{name}チャンネル{n}", "{name}の部屋 {place}"),
    "ko": ("{name} TV {n}", "{place} {name}"),
    "zh": ("{name}频道{n}", "{place} {name}"),
    "ru": ("{Name} {n}", "Канал «{Name}» {n}"),
    "hi": ("{name} चैनल {n}", "{place} {name}"),
    "ar": ("قناة {name} {n}", "{place} {name}"),
}
PLACES = (
    "Northern", "Harbour", "Riverside", "Uptown", "Lakeside", "Hilltop", "Coastal", "Meadow", "Lantern",
    "Copper", "Granite", "Willow", "Juniper", "Paper", "Velvet", "Quiet", "Midnight", "Sunrise",
    "Wandering", "Hidden", "Little", "Grand", "Open", "Blue", "Amber", "Silver",
)  # fmt: skip
THINGS = (
    "Workshop", "Studio", "Diaries", "Lab", "Club", "Journal", "Corner", "Project", "Garage", "Notes",
    "Hour", "Collective", "Room",
)  # fmt: skip

LANGUAGE_WEIGHTS: dict[Language, int] = {
    "en": 44, "es": 12, "ja": 10, "ko": 9, "zh": 6, "ru": 7, "hi": 7, "ar": 5,
}  # fmt: skip
COUNTRIES: dict[Language, tuple[str, ...]] = {
    "en": ("US", "GB", "CA", "AU"), "es": ("ES", "MX", "AR"), "ja": ("JP",), "ko": ("KR",), "zh": ("TW",),
    "ru": ("KZ", "RU"), "hi": ("IN",), "ar": ("EG", "SA"),
}  # fmt: skip
UTC_OFFSET_H: dict[Language, int] = {
    "en": -6, "es": -4, "ja": 9, "ko": 9, "zh": 8, "ru": 4, "hi": 5, "ar": 3,
}  # fmt: skip
