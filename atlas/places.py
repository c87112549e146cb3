"""Region and language codes that the YouTube Data API accepts, with suggestions for misspelled ones."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final


def _table(text: str) -> dict[str, str]:
    entries = " ".join(text.split()).split("; ")
    return {code: name for code, _, name in (entry.partition(" ") for entry in entries)}


REGIONS: Final = _table(
    """
AD Andorra; AE United Arab Emirates; AF Afghanistan; AG Antigua and Barbuda; AI Anguilla; AL Albania; AM
Armenia; AO Angola; AQ Antarctica; AR Argentina; AS American Samoa; AT Austria; AU Australia; AW Aruba; AX
Åland Islands; AZ Azerbaijan; BA Bosnia and Herzegovina; BB Barbados; BD Bangladesh; BE Belgium; BF
Burkina Faso; BG Bulgaria; BH Bahrain; BI Burundi; BJ Benin; BL Saint Barthélemy; BM Bermuda; BN Brunei;
BO Bolivia; BQ Bonaire; BR Brazil; BS Bahamas; BT Bhutan; BV Bouvet Island; BW Botswana; BY Belarus; BZ
Belize; CA Canada; CC Cocos (Keeling) Islands; CD Congo (Kinshasa); CF Central African Republic; CG Congo
(Brazzaville); CH Switzerland; CI Ivory Coast; CK Cook Islands; CL Chile; CM Cameroon; CN China; CO
Colombia; CR Costa Rica; CU Cuba; CV Cape Verde; CW Curaçao; CX Christmas Island; CY Cyprus; CZ Czechia;
DE Germany; DJ Djibouti; DK Denmark; DM Dominica; DO Dominican Republic; DZ Algeria; EC Ecuador; EE
Estonia; EG Egypt; EH Western Sahara; ER Eritrea; ES Spain; ET Ethiopia; FI Finland; FJ Fiji; FK Falkland
Islands; FM Micronesia; FO Faroe Islands; FR France; GA Gabon; GB United Kingdom; GD Grenada; GE Georgia;
GF French Guiana; GG Guernsey; GH Ghana; GI Gibraltar; GL Greenland; GM Gambia; GN Guinea; GP Guadeloupe;
GQ Equatorial Guinea; GR Greece; GS South Georgia and the South Sandwich Islands; GT Guatemala; GU Guam;
GW Guinea-Bissau; GY Guyana; HK Hong Kong; HM Heard Island and McDonald Islands; HN Honduras; HR Croatia;
HT Haiti; HU Hungary; ID Indonesia; IE Ireland; IL Israel; IM Isle of Man; IN India; IO British Indian
Ocean Territory; IQ Iraq; IR Iran; IS Iceland; IT Italy; JE Jersey; JM Jamaica; JO Jordan; JP Japan; KE
Kenya; KG Kyrgyzstan; KH Cambodia; KI Kiribati; KM Comoros; KN Saint Kitts and Nevis; KP North Korea; KR
South Korea; KW Kuwait; KY Cayman Islands; KZ Kazakhstan; LA Laos; LB Lebanon; LC Saint Lucia; LI
Liechtenstein; LK Sri Lanka; LR Liberia; LS Lesotho; LT Lithuania; LU Luxembourg; LV Latvia; LY Libya; MA
Morocco; MC Monaco; MD Moldova; ME Montenegro; MF Saint Martin; MG Madagascar; MH Marshall Islands; MK
North Macedonia; ML Mali; MM Myanmar; MN Mongolia; MO Macao; MP Northern Mariana Islands; MQ Martinique;
MR Mauritania; MS Montserrat; MT Malta; MU Mauritius; MV Maldives; MW Malawi; MX Mexico; MY Malaysia; MZ
Mozambique; NA Namibia; NC New Caledonia; NE Niger; NF Norfolk Island; NG Nigeria; NI Nicaragua; NL
Netherlands; NO Norway; NP Nepal; NR Nauru; NU Niue; NZ New Zealand; OM Oman; PA Panama; PE Peru; PF
French Polynesia; PG Papua New Guinea; PH Philippines; PK Pakistan; PL Poland; PM Saint Pierre and
Miquelon; PN Pitcairn; PR Puerto Rico; PS Palestine; PT Portugal; PW Palau; PY Paraguay; QA Qatar; RE
Réunion; RO Romania; RS Serbia; RU Russia; RW Rwanda; SA Saudi Arabia; SB Solomon Islands; SC Seychelles;
SD Sudan; SE Sweden; SG Singapore; SH Saint Helena; SI Slovenia; SJ Svalbard and Jan Mayen; SK Slovakia;
SL Sierra Leone; SM San Marino; SN Senegal; SO Somalia; SR Suriname; SS South Sudan; ST Sao Tome and
Principe; SV El Salvador; SX Sint Maarten; SY Syria; SZ Eswatini; TC Turks and Caicos Islands; TD Chad; TF
French Southern Territories; TG Togo; TH Thailand; TJ Tajikistan; TK Tokelau; TL Timor-Leste; TM
Turkmenistan; TN Tunisia; TO Tonga; TR Turkey; TT Trinidad and Tobago; TV Tuvalu; TW Taiwan; TZ Tanzania;
UA Ukraine; UG Uganda; UM United States Minor Outlying Islands; US United States; UY Uruguay; UZ
Uzbekistan; VA Vatican City; VC Saint Vincent and the Grenadines; VE Venezuela; VG British Virgin Islands;
VI US Virgin Islands; VN Vietnam; VU Vanuatu; WF Wallis and Futuna; WS Samoa; YE Yemen; YT Mayotte; ZA
South Africa; ZM Zambia; ZW Zimbabwe
    """
)
"""ISO 3166-1: regions' names by two-letter code."""

LANGUAGES: Final = _table(
    """
aa Afar; ab Abkhazian; ae Avestan; af Afrikaans; ak Akan; am Amharic; an Aragonese; ar Arabic; as
Assamese; av Avaric; ay Aymara; az Azerbaijani; ba Bashkir; be Belarusian; bg Bulgarian; bi Bislama; bm
Bambara; bn Bengali; bo Tibetan; br Breton; bs Bosnian; ca Catalan; ce Chechen; ch Chamorro; co Corsican;
cr Cree; cs Czech; cu Church Slavic; cv Chuvash; cy Welsh; da Danish; de German; dv Divehi; dz Dzongkha;
ee Ewe; el Greek; en English; eo Esperanto; es Spanish; et Estonian; eu Basque; fa Persian; ff Fulah; fi
Finnish; fj Fijian; fo Faroese; fr French; fy Western Frisian; ga Irish; gd Scottish Gaelic; gl Galician;
gn Guarani; gu Gujarati; gv Manx; ha Hausa; he Hebrew; hi Hindi; ho Hiri Motu; hr Croatian; ht Haitian; hu
Hungarian; hy Armenian; hz Herero; ia Interlingua; id Indonesian; ie Interlingue; ig Igbo; ii Sichuan Yi;
ik Inupiaq; io Ido; is Icelandic; it Italian; iu Inuktitut; ja Japanese; jv Javanese; ka Georgian; kg
Kongo; ki Kikuyu; kj Kuanyama; kk Kazakh; kl Kalaallisut; km Khmer; kn Kannada; ko Korean; kr Kanuri; ks
Kashmiri; ku Kurdish; kv Komi; kw Cornish; ky Kyrgyz; la Latin; lb Luxembourgish; lg Ganda; li Limburgan;
ln Lingala; lo Lao; lt Lithuanian; lu Luba-Katanga; lv Latvian; mg Malagasy; mh Marshallese; mi Maori; mk
Macedonian; ml Malayalam; mn Mongolian; mr Marathi; ms Malay; mt Maltese; my Burmese; na Nauru; nb
Norwegian Bokmål; nd North Ndebele; ne Nepali; ng Ndonga; nl Dutch; nn Norwegian Nynorsk; no Norwegian; nr
South Ndebele; nv Navajo; ny Chichewa; oc Occitan; oj Ojibwa; om Oromo; or Oriya; os Ossetian; pa Punjabi;
pi Pali; pl Polish; ps Pashto; pt Portuguese; qu Quechua; rm Romansh; rn Rundi; ro Romanian; ru Russian;
rw Kinyarwanda; sa Sanskrit; sc Sardinian; sd Sindhi; se Northern Sami; sg Sango; sh Serbo-Croatian; si
Sinhala; sk Slovak; sl Slovenian; sm Samoan; sn Shona; so Somali; sq Albanian; sr Serbian; ss Swati; st
Southern Sotho; su Sundanese; sv Swedish; sw Swahili; ta Tamil; te Telugu; tg Tajik; th Thai; ti Tigrinya;
tk Turkmen; tl Tagalog; tn Tswana; to Tonga; tr Turkish; ts Tsonga; tt Tatar; tw Twi; ty Tahitian; ug
Uyghur; uk Ukrainian; ur Urdu; uz Uzbek; ve Venda; vi Vietnamese; vo Volapük; wa Walloon; wo Wolof; xh
Xhosa; yi Yiddish; yo Yoruba; za Zhuang; zh Chinese; zu Zulu
    """
)
"""ISO 639-1: languages' names by two-letter code."""

YOUTUBE_LANGUAGES: Final = _table(
    """
zh-Hans Chinese (simplified); zh-Hant Chinese (traditional); zh-CN Chinese (China); zh-HK Chinese (Hong
Kong); zh-TW Chinese (Taiwan); en-GB English (United Kingdom); en-IN English (India); es-419 Spanish (Latin
America); es-US Spanish (United States); fil Filipino; fr-CA French (Canada); iw Hebrew; pt-PT Portuguese
(Portugal); sr-Latn Serbian (Latin)
    """
)
"""Languages that YouTube's own list has in addition."""

_REGION_CORRECTIONS: Final = _table(
    """
UK GB; EN GB; ENGLAND GB; SCOTLAND GB; WALES GB; BRITAIN GB; USA US; AMERICA US; SU RU; YU RS; JA JP; DA DK;
EL GR; KO KR; ZH CN; CS CZ; UAE AE; HOLLAND NL; TÜRKIYE TR
    """
)
_LANGUAGE_CORRECTIONS: Final = _table(
    """
jp ja; cn zh-Hans; gr el; cz cs; kr ko; dk da; in id; ji yi; gb en; us en; eng en; at de; mx es;
zh-sg zh-Hans; zh-mo zh-Hant; mandarin zh-Hans; farsi fa
    """
)


def region_code(text: str) -> str:
    """A region's code, in capitals; ValueError suggests the code that was probably meant."""
    code = text.strip().upper()
    if code in REGIONS:
        return code
    suggestion = _suggestion(code, _REGION_CORRECTIONS, REGIONS)
    hint = suggestion or "; write a code such as GB or DE"
    raise ValueError(f"there is no region {text!r} in ISO 3166-1{hint}")


def language_code(text: str) -> str:
    """A language's code in the API's spelling; ValueError suggests the code that was probably meant."""
    spelling = {code.lower(): code for code in (*LANGUAGES, *YOUTUBE_LANGUAGES)}
    code = text.strip().lower().replace("_", "-")
    if code in spelling:
        return spelling[code]
    known = YOUTUBE_LANGUAGES | LANGUAGES
    base = code.partition("-")[0]
    corrections = ({base: base} if base in LANGUAGES else {}) | _LANGUAGE_CORRECTIONS
    suggestion = _suggestion(code, corrections, known)
    raise ValueError(
        f"there is no language {text!r} in ISO 639-1, nor is it one of YouTube's own, such as zh-Hans"
        f"{suggestion or '; write a code such as en or de'}"
    )


def _suggestion(written: str, corrections: dict[str, str], names: dict[str, str]) -> str:
    """The code that was probably meant, as the end of a sentence; empty if nothing is similar."""
    by_name = {name.casefold(): code for code, name in reversed(names.items())}
    near = get_close_matches(written.casefold(), by_name, n=1, cutoff=0.75)
    base = written.partition("-")[0]
    code = corrections.get(written) or corrections.get(base) or (by_name[near[0]] if near else None)
    return f": did you mean {code} ({names[code]})?" if code else ""
