"""What must not be shown of what others say.

Secrets are known by their names (``client_secret: ...``), by their schemes (``Bearer ...``) or by their own form (a
JSON web token, a key of a known prefix). Everything else stays as it is: an error must stay readable. The libraries
that find secrets (detect-secrets 1.5, for one) look for them in files, know none of Azure's signatures and take any
long word of much entropy for one, as ids of jobs and hashes are.
"""

from __future__ import annotations

import base64
import binascii
import re

# Names whose values are secrets, wherever they stand at the end of a longer name. What they begin with is looked for
# first, at each character: all of them would be tried there otherwise, which takes as long as all other forms together.
_NAME = r"""(?= [abcefghijmnoprstuwx] [acdefhilmnoprstuwy]) (?:
    (?:access|account|admin|api|auth|client|encryption|functions?|host|instrumentation|master|primary|private|secondary
        |secret|service|shared|signing|storage|subscription) [-_]? key [12]?
    | (?:access|account|api|subscription) [ ] key
    | (?:aad|access|api|arm|auth|bearer|bot|csrf|gh|github|gitlab|hf|hub|id|identity|jwt|npm|oauth2?|personal|pypi
        |refresh|registry|sas|security|service|session|tracking|upload|wandb|xsrf) [-_]? token
    | (?: secret (?:[-_]? (?:text|value))? | password | passwd | passphrase | passcode | (?<![a-z])pwd
        | client_assertion | identity[-_]header | amz-(?:credential|signature) | goog-signature )
    )"""
# How a name and its value are written: in code, in JSON, in JSON in a text of JSON, and in a URL inside of a URL.
_IS = r"""\\*["']? \s* (?:[:=]|%(?:25)?3d) \s* (?:b(?=["']))? \\*["']?"""
# What comes after a name in a sentence, and what stands there for no value.
_NO_VALUE = r"""(?! (?: a|an|and|are|be|but|by|can(?:not|'t)?|check|could|denied|does|empty|error|expected|expired|extra
    |false|field|for|forbidden|found|from|has|have|in|incorrect|input|invalid|is|it|may|missing|must|no|none|not|null|of
    |on|or|please|redacted|refused|rejected|required|see|set|should|string|str|the|this|to|too|true|unauthorized|unknown
    |unset|use|value|was|were|will|with|wrong|you|your ) (?![\w+/=.~\\-]) | \$?[\[({<] [\w .-]* [\])}>]
    | [\[({] \s* ["'0-9] | \.?(?-i:/[a-z.]+/) | ~/ )"""
_QUOTED = r"""(?<=") (?:[^"\\]|\\[^"])+ | (?<=') (?:[^'\\]|\\[^'])+"""
_WORD = r"""(?: (?!%(?:25)?26) [^\s&;'"<>\\] )* (?!%(?:25)?26) [^\s&;'"<>\\,.)}\]]"""
_RANDOM = r"""(?=[a-z+/]*[0-9]) (?=[0-9+/]*[a-z]) [\w+/]{20,} =*"""  # and not a name or a number


def _form(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE)


# Of each form everything but the first group is a secret.
_FORMS = [
    # A private key; one that was cut off has no end, or no beginning.
    _form(r"""(-----BEGIN [ ] [A-Z ]{0,40} PRIVATE [ ] KEY (?:[ ]BLOCK)? -----) (?!\*\*\*)
        [\s\S]*? (?:-----END [ ] [A-Z ]+ -----|\Z)"""),
    _form(r"(\A) (?:[\w+/=]+\s+)+ (?=-----END [ ] [A-Z ]{0,40} PRIVATE [ ] KEY)"),
    # Headers: a scheme and what it takes; of one that takes several values, and of cookies, the whole line.
    _form(rf"""(\bauthorization {_IS} (?:(?:bearer|basic|negotiate|sharedkey(?:lite)?|token|apikey|splunk) \s+)?)
        (?!digest|aws4|sharedaccess|bearer|basic|negotiate|sharedkey) {_NO_VALUE} (?: {_QUOTED} | {_WORD} )"""),
    _form(rf"(\bauthorization {_IS} (?:digest|aws4-hmac-sha256) \s) [^\r\n]+"),
    _form(r"""(\b(?:set-)?cookie \\*["']? \s* : \s* \\*["']?)
        (?: (?<=")[^"\r\n]+ | (?<=')[^'\r\n]+ | [^"'\r\n]+ )"""),
    _form(rf"""(\bbearer \s+) (?!(?:auth\w*|challenge|credentials?|error|header|realm|scheme|tokens?|type)\b)
        (?!\w+=["']) {_NO_VALUE} [\w.~+/=-]* [\w~+/=-]"""),
    _form(r"""(\bsharedkey(?:lite)? \s+ \w+ :) [\w+/]{4,} =*"""),
    # A name and its value; of a key or token of no known kind, what is no ordinary word.
    _form(rf"""((?:{_NAME} | (?<![\w.-])token (?=\\*["']?[:=]\\*["']?\S | \\+?["']) ) {_IS}) {_NO_VALUE}
        (?: {_QUOTED} | {_WORD} )"""),
    _form(rf"""((?:key|token) \d? {_IS}) {_RANDOM}"""),
    _form(rf"""((?<![\w-]) -- (?:[\w-]*-)? (?:{_NAME}|token) \s+) (?!-) {_NO_VALUE} {_WORD}"""),
    _form(rf"""(< [\w:]* {_NAME} >) [^<]+"""),
    _form(rf"""(\( \s* b?["'] [\w-]* {_NAME} ["'] , \s* b?["']) [^"']+"""),
    # What a URL has in its query; `sv` says which kind of signature it is.
    _form(rf"""((?:\b|(?<=3f)|(?<=26)) (?:sig|sv|assertion) (?:=|%(?:25)?3d) \\*["']?) {_WORD}"""),
    _form(rf"""((?: [?&] | %(?:25)?(?:3f|26) ) (?:code|key|token|signature) (?:=|%(?:25)?3d)) {_WORD}"""),
    # A name and a password before a host; before an address of the web, a name alone too, which may be a token.
    _form(r"""(://) [^/\s:@'"]* : [^/\s@'"]+ (?=@)"""),
    _form(r"""(https?://) [^/\s:@'"?#]+ (?=@)"""),
    _form(r"""((?<![\w.+:/@-]) (?!(?:azureml|mailto|e-?mail|author|from|to|cc|by|contact|owner|acct|sips?|file|git)\b)
        [\w.+-]+ :) [^\s:@/'"]+ (?=@(?!sha\d|latest\b)[a-z0-9\[])"""),
    # What has a form of its own. JSON in base64 begins with eyJ.
    re.compile(r"()(?<![\w-])eyJ[\w-]{8,}(?:\.[\w-]*){1,4}"),
    re.compile(
        r"""(?x)()(?<![A-Za-z0-9_-]) (?:
        hf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{10,} | api_org_[A-Za-z0-9]{20,}
        | gh[oprsu]_[A-Za-z0-9]{16,} | github_pat_\w{20,} | gl(?:pat|dt|rt)-[\w-]{16,}
        | sk-(?=[\w-]*[0-9])[\w-]{16,} | [rs]k_(?:live|test)_\w{10,} | whsec_\w{16,} | SG\.[\w-]{16,}\.[\w-]{16,}
        | xox[abeoprs]-[\w-]{10,} | xapp-[\w-]{10,} | (?:AKIA|ASIA)[A-Z0-9]{16}(?!\w)
        | AIza[\w-]{30,} | ya29\.[\w-]{10,} | GOCSPX-[\w-]{10,} | npm_[A-Za-z0-9]{30,} | pypi-AgE[\w-]{16,}
        | dapi[0-9a-f]{32}(?:-\d)? | dckr_pat_[\w-]{16,} | hv[sb]\.[\w-]{16,} | AGE-SECRET-KEY-1[A-Z0-9]{20,}
        | wandb_v1_\w{16,} | nvapi-[\w-]{20,} | [01]\.A[\w-]{20}[\w.-]{60,}
        )"""
    ),
    # A storage account's key, of 64 bytes; the services' newer keys, and an application's secret, have marks inside.
    re.compile(r"()(?<![\w+/])[A-Za-z0-9+/]{86}==|(?<!\w)[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{26}(?!\w)"),
    re.compile(r"()(?<![\w~.-])[\w~.-]{3}[78]Q~[\w~.-]{31,34}(?![\w~-])"),
    re.compile(r"(https://hooks\.slack\.com/services/)[\w/]+"),
]
_BASIC = re.compile(r"(\bbasic\s+)([a-z0-9+/_-]{4,}={0,2})", re.IGNORECASE)


def redact(text: str) -> str:
    """Return ``text`` with anything that looks like a signature, key, token or password replaced by ``***``."""
    for form in _FORMS:
        text = form.sub(lambda found: f"{found[1] or ''}***", text)
    return _BASIC.sub(lambda found: f"{found[1]}***" if _is_name_and_password(found[2]) else found[0], text)


def _is_name_and_password(word: str) -> bool:
    """Tell a scheme's credentials from the words that come after `basic` in a sentence."""
    try:
        return b":" in base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_" if "-" in word else None)
    except binascii.Error:
        return False
