"""Collections on disk: folders with tables, Pascal VOC and COCO."""
