"""Disease trees: YAML files, checked and closed upward."""

from hlip.taxonomy.file import TaxonomyError
from hlip.taxonomy.tree import Taxonomy, TaxonomyClass

__all__ = ["Taxonomy", "TaxonomyClass", "TaxonomyError"]
