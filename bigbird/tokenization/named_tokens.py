"""A token that plays a part, and its id, as properties of a tokenizer: `pad_token`, `pad_token_id` and the others.

Knows parts; nothing of texts.
"""

from typing import Any, Generic, TypeVar, cast

from tokenizers import AddedToken

from bigbird.errors import InputError

Token = TypeVar("Token")
TokenId = TypeVar("TokenId")


class NamedToken(Generic[Token]):
    """The token that plays a part; None where the vocabulary has none for it. Setting it takes one it has."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._role = name

    def __get__(self, instance: Any, owner: type) -> Token:
        return cast(Token, instance.special_tokens_map.get(self._role))

    def __set__(self, instance: Any, token: str | AddedToken) -> None:
        if instance.token_to_id(str(token)) is None:
            raise InputError(f"{self._role}: the vocabulary lacks {str(token)!r}; add_special_tokens adds it")
        instance.set_special_token(self._role, str(token))


class NamedId(Generic[TokenId]):
    """The id of the token that plays a part; None where there is none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._role = name.removesuffix("_id")

    def __get__(self, instance: Any, owner: type) -> TokenId:
        token = instance.special_tokens_map.get(self._role)
        return cast(TokenId, None if token is None else instance.token_to_id(token))

    def __set__(self, instance: Any, token_id: int) -> None:
        instance.set_special_token(self._role, instance.convert_ids_to_tokens(token_id))
