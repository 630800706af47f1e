"""Values as bytes: serializers, the types that they know, and how types evolve."""
