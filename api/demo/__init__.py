"""The main job on real input: an organisation's journey, then traffic, then the books."""
