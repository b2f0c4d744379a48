"""Issuing identities to applications: `decision` (pure) says to whom, `used_claims` stores which claims were used."""

from .decision import UsedClaim as UsedClaim
from .decision import UsedClaims as UsedClaims
from .service import Issuing as Issuing
from .used_claims import UsedClaimsFile as UsedClaimsFile
