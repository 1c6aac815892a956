"""The DIMSE side of the node: the only package that knows pynetdicom.

`scp` is the receiver the node starts, `acceptor` the process it runs in, `association` one conversation with a peer.
What is sent out (C-STORE, storage commitment, query) lives here too; which object goes where is decided elsewhere.
"""
