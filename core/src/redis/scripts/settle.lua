-- Ends a delivery: finished, given up (a dead letter), put off, or still in hand.
-- KEYS: stream, waiting tasks, delayed ones, dead letters, the task's job record.
-- ARGV: action, consumer, entry, task, attempt, job record, its life in ms, then by action.
local action, consumer, entry, task, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local group = 'workers'

if action == 'hold' then
  -- Only while it is ours: another worker may have taken it over.
  local own = redis.pcall('XPENDING', KEYS[1], group, entry, entry, 1, consumer)
  if own.err or #own == 0 then return 0 end
  redis.call('XCLAIM', KEYS[1], group, consumer, 0, entry, 'JUSTID')
  return 1
end

redis.pcall('XACK', KEYS[1], group, entry)
redis.call('XDEL', KEYS[1], entry)
redis.call('SET', KEYS[5], ARGV[6], 'PX', ARGV[7])
if action == 'dead' then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', 'task', task, 'error', ARGV[8],
    'attempt', attempt)
elseif action == 'retry' and redis.call('SADD', KEYS[2], task) == 1 then
  local time = redis.call('TIME')
  local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[8])
  local member = cjson.encode({task = task, priority = tonumber(ARGV[9]), attempt = tonumber(attempt)})
  redis.call('ZADD', KEYS[3], string.format('%d', due), member)
end
return 1
