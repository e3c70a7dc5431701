"""The six dashboards."""

from monitoring.board import Board
from monitoring.boards.cost import COST
from monitoring.boards.fleet import FLEET
from monitoring.boards.placement import PLACEMENT
from monitoring.boards.pools import POOLS
from monitoring.boards.scene_cache import SCENE_CACHE
from monitoring.boards.service import SERVICE

BOARDS: tuple[Board, ...] = (FLEET, POOLS, PLACEMENT, SCENE_CACHE, SERVICE, COST)
