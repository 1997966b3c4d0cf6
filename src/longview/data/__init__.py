"""From raw archives to packed batches: manifests, images, sources, stores, studies and the datamodule."""
