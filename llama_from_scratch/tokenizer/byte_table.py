"""How vocabulary files spell bytes: each of the 256 as one visible character."""

# Printable Latin-1 characters stand for their own byte. The other 68 bytes (controls, space, 0x7F–0xA0, soft hyphen)
# stand, in order, as the characters from U+0100 on; so the space, byte 32, is written "Ġ".
# Source: GPT-2's vocabulary (Radford et al., 2019), used by every byte-level BPE file since.
_visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
_hidden = [byte for byte in range(256) if byte not in _visible]

BYTE_TO_CHAR = {byte: chr(byte) if byte in _visible else chr(0x100 + _hidden.index(byte)) for byte in range(256)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def spell(piece: bytes) -> str:
    """How a vocabulary file writes these bytes: b" the" is "Ġthe"."""
    return "".join(BYTE_TO_CHAR[byte] for byte in piece)


def to_bytes(spelled: str) -> bytes:
    """The bytes that a vocabulary entry such as "Ġthe" stands for.

    Raises:
        ValueError: if a character stands for no byte.
    """
    try:
        return bytes(CHAR_TO_BYTE[char] for char in spelled)
    except KeyError as error:
        raise ValueError(f"the token {spelled!r} holds {error.args[0]!r}, which is not byte-level spelling") from None


def to_utf8(text: str) -> bytes:
    """The bytes that a text is made of.

    Raises:
        ValueError: if it holds half of a surrogate pair, which Python's str can and UTF-8 cannot.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(f"the text holds half of a surrogate pair, {half!r}: not valid Unicode; take it out") from None
