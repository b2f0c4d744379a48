"""Templates of policies, made from the table of keys: TOML, Group Policy, and a configuration profile. Pure."""

from __future__ import annotations

import plistlib
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from xml.sax.saxutils import escape, quoteattr

from .schema import KEYS, Key, Kind

__all__ = ["TEMPLATES"]

_REGISTRY_KEY = r"SOFTWARE\Policies\HybridRelay"
_DOMAIN = "org.hybridrelay"
#: The identifiers of the profile and of its payload. They may be replaced when a profile is installed.
_PROFILE_ID, _PAYLOAD_ID = "5C3E4B0A-6E0C-4E77-9C1F-0B4F6A2B7D11", "9D7A2C58-3F46-4C0B-8B1E-7A5D0E9C4F22"
_NAMESPACE = "http://schemas.microsoft.com/GroupPolicy/2006/07/PolicyDefinitions"


_TOML_HEAD = """\
# A policy of hybridrelay. Put it into /etc/hybridrelay/policy.d, as a file that belongs to root and that others
# cannot write. Remove the # before the keys that you need. If there are several files, only what all of them allow
# is allowed. Check the result with: hybridrelay policy show
"""


def toml_template() -> str:
    """Return a policy file in which every key is explained, and commented out."""
    keys = (f"{_comment(key.text)}\n#{key.name} = {key.example}\n" for key in KEYS.values())
    return "\n".join((_TOML_HEAD, *keys))


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, 100))


def _value(key: Key) -> object:
    return tomllib.loads(f"{key.name} = {key.example}")[key.name]


def mobileconfig_template() -> str:
    """Return a configuration profile for macOS, with the example of every key. Keys that are not needed have to be
    removed."""
    settings = {key.name: _value(key) for key in KEYS.values()}
    payload = {
        "PayloadType": "com.apple.ManagedClient.preferences",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{_DOMAIN}.policy.preferences",
        "PayloadUUID": _PAYLOAD_ID,
        "PayloadEnabled": True,
        "PayloadDisplayName": "hybridrelay",
        "PayloadContent": {_DOMAIN: {"Forced": [{"mcx_preference_settings": settings}]}},
    }
    profile = {
        "PayloadType": "Configuration",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{_DOMAIN}.policy",
        "PayloadUUID": _PROFILE_ID,
        "PayloadScope": "System",
        "PayloadDisplayName": "hybridrelay policy",
        "PayloadDescription": "What hybrid connections may reach. Remove the keys that you do not need.",
        "PayloadContent": [payload],
    }
    return plistlib.dumps(profile, sort_keys=False).decode("utf-8")


def admx_template() -> str:
    """Return the definitions for Group Policy. The texts are in `adml_template`."""
    policies = "\n".join(map(_admx_policy, KEYS.values()))
    return f"""\
<?xml version="1.0" encoding="utf-8"?>
<policyDefinitions xmlns="{_NAMESPACE}" revision="1.0" schemaVersion="1.0">
  <policyNamespaces>
    <target prefix="hybridrelay" namespace="HybridRelay.Policies"/>
    <using prefix="windows" namespace="Microsoft.Policies.Windows"/>
  </policyNamespaces>
  <resources minRequiredRevision="1.0"/>
  <categories>
    <category name="HybridRelay" displayName="$(string.HybridRelay)"/>
  </categories>
  <policies>
{policies}
  </policies>
</policyDefinitions>
"""


def _admx_policy(key: Key) -> str:
    presentation = "" if key.kind is Kind.FLAG else f' presentation="$(presentation.{key.name})"'
    value_name = f' valueName="{key.name}"' if key.kind is Kind.FLAG else ""
    head = (
        f'    <policy name="{key.name}" class="Machine" displayName="$(string.{key.name})" '
        f'explainText="$(string.{key.name}_Help)"{presentation} key={quoteattr(_REGISTRY_KEY)}{value_name}>\n'
        '      <parentCategory ref="HybridRelay"/>\n'
        '      <supportedOn ref="windows:SUPPORTED_Windows_10_0"/>\n'
    )
    match key.kind:
        case Kind.FLAG:
            content = (
                '      <enabledValue><decimal value="1"/></enabledValue>\n'
                '      <disabledValue><decimal value="0"/></disabledValue>\n'
            )
        case Kind.COUNT:
            content = (
                "      <elements>\n"
                f'        <decimal id="{key.name}" valueName="{key.name}" minValue="0" maxValue="1000000"/>\n'
                "      </elements>\n"
            )
        case Kind.LIST:
            content = (
                "      <elements>\n"
                f'        <list id="{key.name}" key={quoteattr(_subkey(key))} valuePrefix=""/>\n'
                "      </elements>\n"
            )
    return f"{head}{content}    </policy>"


def _subkey(key: Key) -> str:
    return f"{_REGISTRY_KEY}\\{key.name}"


def adml_template() -> str:
    """Return the English texts for `admx_template`."""
    strings = "\n".join(
        f'      <string id="{key.name}">{escape(key.title)}</string>\n'
        f'      <string id="{key.name}_Help">{escape(key.text)}</string>'
        for key in KEYS.values()
    )
    presentations = "\n".join(map(_presentation, (key for key in KEYS.values() if key.kind is not Kind.FLAG)))
    return f"""\
<?xml version="1.0" encoding="utf-8"?>
<policyDefinitionResources xmlns="{_NAMESPACE}" revision="1.0" schemaVersion="1.0">
  <displayName>hybridrelay</displayName>
  <description>What hybrid connections may reach</description>
  <resources>
    <stringTable>
      <string id="HybridRelay">hybridrelay</string>
{strings}
    </stringTable>
    <presentationTable>
{presentations}
    </presentationTable>
  </resources>
</policyDefinitionResources>
"""


def _presentation(key: Key) -> str:
    element = "decimalTextBox" if key.kind is Kind.COUNT else "listBox"
    return (
        f'      <presentation id="{key.name}">'
        f'<{element} refId="{key.name}">{escape(key.title)}</{element}></presentation>'
    )


#: The functions that make the templates, by the names of their formats.
TEMPLATES: Mapping[str, Callable[[], str]] = {
    "toml": toml_template,
    "admx": admx_template,
    "adml": adml_template,
    "mobileconfig": mobileconfig_template,
}
