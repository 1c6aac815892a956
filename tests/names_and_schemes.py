"""Russian names, and the schemes by which machines write them in Latin letters, from the standards' own tables.

Kept apart from the product's tables on purpose: the tests hold the one against the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

_VOWELS = "аеёиоуыэюя"

_FAMILIES = """
Иванов Иванова Петров Петрова Сергеев Сергеева Сидоров Кузнецов Кузнецова Щербаков Щербакова Хачатурян Цой Жуков Жукова
Ёлкина Ёлкин Подъячев Подъячева Эйхенбаум Соловьёв Соловьёва Соловей Воробьёв Воробей Юрьев Юрьева Чехов Чижов Шишкин
Шишков Щукин Щукина Цветков Цветкова Хрущёв Горбачёв Королёв Королева Ким Ли Пак Яковлев Яковлева Фёдоров Федорченко
Крыжановский Крыжановская Достоевский Белый Чёрный Толстой Толстая Гайдай Зайцев Зайцева Козлов Козлова Коровин Мышкин
Мишкин Рыжов Рыжий Объедков Съедин Вьюгин Ильин Ильина Ильинский Гольцман Шварц Штейн Мельник Мельников Дьяченко
Ткаченко Шевченко Гоголь Лысенко Лисенко Алиев Алиева Валиев Валеев Галеев Галиев Сафин Шарапова Нуриев Бахтияров
Джугашвили Мжаванадзе Айвазян Оганесян Мамедов Рахимов Жириновский Сцепин Кац Каценеленбоген Римский-Корсаков
Мамин-Сибиряк Петрова-Водкина Лебедев Лебедева Новиков Новикова Морозов Волков Соколов Попов Попова Васильев Васильева
Егоров Ежов Эскин Юсупов Якубов Ющенко Яшин Ященко Аксёнов Максимов Оксанин
"""
_GIVEN = """
Иван Пётр Сергей Алексей Александр Дмитрий Андрей Михаил Юрий Евгений Евгения Николай Виктор Виктория Василий Анатолий
Юлия Юлий Наталья Мария Марья Анна Елена Екатерина Ольга Татьяна Ирина Светлана Галина Людмила Лидия Софья София
Ксения Оксана Жанна Зоя Майя Раиса Фёдор Артём Семён Игорь Олег Илья Яков Эдуард Эльвира Айгуль Гульнара Гүлнәр Ильдар
Рушан Хабиб Цезарь Шамиль Щепан Лев Лия Аксинья Данил Даниил Даниель Геннадий Григорий Захар Любовь Надежда Вячеслав
Станислав Ярослав Изольда Ия Ася Алсу Чулпан Марсель Рифкат Зульфия Джамиля Нэлли Нелли
"""
_PATRONYMICS = """
Иванович Ивановна Петрович Петровна Сергеевич Сергеевна Алексеевич Алексеевна Ильич Ильинична Кузьмич Кузьминична
Юрьевич Юрьевна Николаевич Николаевна Фёдорович Семёновна Яковлевич Никитична Вячеславович Хасанович Шамилевич
Эдуардовна Артёмович Дмитриевич Анатольевна Григорьевич
"""

FAMILIES: Final = tuple(_FAMILIES.split())
GIVEN: Final = tuple(_GIVEN.split())
PATRONYMICS: Final = tuple(_PATRONYMICS.split())


def _table(text: str) -> dict[str, str]:
    return {entry[0]: entry[1:] for entry in text.split()}


_PLAIN = dict(zip("абвгдезиклмнопрстуфыэ", "abvgdeziklmnoprstufye", strict=True))
_ICAO = _PLAIN | _table("ёe жzh йi хkh цts чch шsh щshch ъie ь юiu яia")
_GOST_52535 = _ICAO | {"ц": "tc", "ъ": ""}
_GOST_779_B = _PLAIN | _table("ёyo жzh йj хx цcz чch шsh щshh ъ`` ыy` ь` эe` юyu яya")
_ISO_9 = _PLAIN | _table("ёë жž йj хh цc чč шš щŝ ъʺ ьʹ эè юû яâ")
_BGN = _PLAIN | _table("ёë жzh йy хkh цts чch шsh щshch ъ” ь’ юyu яya")
_GERMAN = _PLAIN | _table("вw ёjo жsch зs йi хch цz чtsch шsch щschtsch ъ ь юju яja")
_CARELESS = _PLAIN | _table("ёe жzh йj хh цc чch шsh щsch ъ ь юju яja")
_TATAR = {"ү": "u", "ә": "a"}


def _by(table: Mapping[str, str]) -> Callable[[str], str]:
    return lambda word: "".join((_TATAR | dict(table)).get(letter, letter) for letter in word.lower())


def gost_779_b(word: str) -> str:
    """GOST 7.79-2000, system B, where ц is c before i, e, y, j."""
    return re.sub(r"cz(?=[ieyj])", "c", _by(_GOST_779_B)(word))


def iso_9(word: str) -> str:
    """ISO 9:1995, which is GOST 7.79 A."""
    return _by(_ISO_9)(word)


def bgn(word: str) -> str:
    """BGN/PCGN 1947: ye and yë at the beginning and after vowels, й, ъ and ь."""
    heard = re.sub(rf"(?:(?<=[{_VOWELS}йъь-])|^)([её])", lambda found: "y" + found[1], word.lower())
    return _by(_BGN)(heard)


def bgn_simple(word: str) -> str:
    """BGN/PCGN as newspapers have it: no marks, ё as e, -ий and -ый as y."""
    ended = re.sub(r"[иы]й(?=$|-)", "y", word.lower())
    return bgn(ended).replace("ë", "e").replace("’", "").replace("”", "")


def german(word: str) -> str:
    """Duden: je at the beginning and after vowels and ь, o for ё after hushing sounds, ss between vowels, x for кс."""
    text = re.sub(r"(?<=[жчшщ])ё", "о", word.lower())
    text = re.sub(rf"(?:(?<=[{_VOWELS}йъь-])|^)е", "je", text)
    text = re.sub(r"(?<=[иы])й", "", text)
    text = re.sub(rf"(?<=[{_VOWELS}])с(?=[{_VOWELS}])", "ss", text).replace("кс", "x")
    return _by(_GERMAN)(text)


def careless(word: str) -> str:
    """A receptionist: yo and x, sh for щ, i for ы."""
    text = re.sub(r"[иы]й$", "i", word.lower()).replace("кс", "x").replace("кт", "ct")
    return _by(_ICAO | {"ё": "yo", "щ": "sh", "ы": "i", "й": "y", "ю": "yu", "я": "ya", "ъ": ""})(text)


def passport_of_1997(word: str) -> str:
    """ICAO's forerunner: y for й, ya and yu, softened vowels as in Natalya and Vasilyev."""
    text = re.sub(r"ь(?=[еёиюя])", "y", word.lower())
    return _by(_ICAO | {"й": "y", "ю": "yu", "я": "ya", "ъ": ""})(text)


SCHEMES: Final[Mapping[str, Callable[[str], str]]] = {
    "ICAO 9303": _by(_ICAO),
    "GOST R 52535.1": _by(_GOST_52535),
    "GOST 7.79 B": gost_779_b,
    "ISO 9": iso_9,
    "BGN/PCGN": bgn,
    "BGN/PCGN without marks": bgn_simple,
    "German": german,
    "careless": careless,
    "careless with j": _by(_CARELESS),
    "passport of 1997": passport_of_1997,
}
