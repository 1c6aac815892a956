"""The first schema: instances, studies, events, jobs, results, deliveries, commitments."""

from alembic import op

from dicom_node.ledger.schema import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table of the first release; until a release is out this file follows the schema."""
    metadata.create_all(op.get_bind())
