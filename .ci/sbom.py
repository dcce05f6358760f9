"""Write what we put into the image, as CycloneDX: the packages of .ci/constraints-server.txt. What
its base has (Debian, Python) a scanner of images tells.

Of a file of pins with hashes, as pip takes it. The same file and version give the same text.
"""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from pip_requirements_parser import RequirementsFile


def sbom(pins: Path, version: str, made_at: datetime) -> str:
    """The document. Raises ValueError for a line that pins nothing."""
    root = Component(
        name="taximeter", version=version, type=ComponentType.APPLICATION,
        purl=PackageURL("pypi", name="taximeter", version=version), bom_ref="taximeter",
    )  # fmt: skip
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"taximeter {version} {made_at}"))
    bom.metadata.component, bom.metadata.timestamp = root, made_at
    components = []
    for one in RequirementsFile.from_file(str(pins)).requirements:
        pinned = one.get_pinned_version
        if one.name is None or pinned is None:
            raise ValueError(f"{pins}: {one.line}: is not pinned")
        hashes = [
            HashType(alg=HashAlgorithm.SHA_256, content=text.partition(":")[2])
            for text in sorted(one.hash_options)
        ]
        components.append(
            Component(
                name=one.name,
                version=pinned,
                type=ComponentType.LIBRARY,
                hashes=hashes,
                purl=PackageURL("pypi", name=one.name, version=pinned),
                bom_ref=one.name,
            )
        )
    bom.components.update(components)
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


if __name__ == "__main__":
    [path, release, seconds] = sys.argv[1:]
    sys.stdout.write(sbom(Path(path), release, datetime.fromtimestamp(int(seconds), UTC)))
