"""For tests of programs that embed hybridrelay, and of transports: sessions and transports without a network."""

from .sessions import session_pair as session_pair
