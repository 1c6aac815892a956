"""Alembic's way in: runs the migrations on the connection that `Ledger.migrate` opened, in one transaction."""

from alembic import context

from dicom_node.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
